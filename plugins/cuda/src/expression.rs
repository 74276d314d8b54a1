//! Sizes that depend on the inputs' shapes: numbers, names of axes, and arithmetic on them. All of it is checked.

use serde_json::Value;
use std::collections::BTreeMap;

/// Sizes of the axes that vary, by name.
pub type Sizes = BTreeMap<String, u64>;

/// How deep operations may be in one another.
const MAX_DEPTH: usize = 16;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    Number(u64),
    /// The size of an axis that varies.
    Axis(String),
    Operation(Operator, Vec<Expression>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    Add,
    Sub,
    Mul,
    Div,
    CeilDiv,
    Min,
    Max,
}

const OPERATORS: [(&str, Operator, bool); 7] = [
    ("add", Operator::Add, true),
    ("sub", Operator::Sub, false),
    ("mul", Operator::Mul, true),
    ("div", Operator::Div, false),
    ("ceil_div", Operator::CeilDiv, false),
    ("min", Operator::Min, true),
    ("max", Operator::Max, true),
];

impl Expression {
    /// Reads an expression at `path`, which errors name: a number, an axis's name, or `{"mul": ["batch", 4]}`.
    pub fn parse(value: &Value, path: &str) -> Result<Self, String> {
        Self::parse_within(value, path, MAX_DEPTH)
    }

    fn parse_within(value: &Value, path: &str, depth: usize) -> Result<Self, String> {
        let wrong = |what: &str| Err(format!("{path}: {what}"));
        if depth == 0 {
            return wrong("operations are too deep in one another");
        }
        match value {
            Value::Number(number) => match number.as_u64() {
                Some(number) => Ok(Expression::Number(number)),
                None => wrong("must be a whole number from 0"),
            },
            Value::String(name) if !name.is_empty() => Ok(Expression::Axis(name.clone())),
            Value::Object(object) if object.len() == 1 => {
                let Some((name, operands)) = object.iter().next() else { return wrong("is empty") };
                let Some((_, operator, many)) = OPERATORS.iter().find(|(known, ..)| known == name) else {
                    let known: Vec<&str> = OPERATORS.iter().map(|(name, ..)| *name).collect();
                    return wrong(&format!("{name:?} is unknown; there are {}", known.join(", ")));
                };
                let Some(operands) = operands.as_array().filter(|operands| match many {
                    true => operands.len() >= 2,
                    false => operands.len() == 2,
                }) else {
                    let count = if *many { "two or more" } else { "two" };
                    return wrong(&format!("{name:?} takes {count} operands, in a list"));
                };
                let operand = |(index, operand)| {
                    Self::parse_within(operand, &format!("{path}.{name}[{index}]"), depth - 1)
                };
                let operands = operands.iter().enumerate().map(operand).collect::<Result<_, _>>()?;
                Ok(Expression::Operation(*operator, operands))
            }
            _ => wrong(
                "must be a number, the name of an axis, or one operation, such as {\"ceil_div\": [\"batch\", 4]}",
            ),
        }
    }

    /// The axes that it needs.
    pub fn axes<'a>(&'a self, found: &mut Vec<&'a str>) {
        match self {
            Expression::Number(_) => {}
            Expression::Axis(name) => found.push(name),
            Expression::Operation(_, operands) => operands.iter().for_each(|operand| operand.axes(found)),
        }
    }

    /// Its value, or why it has none.
    pub fn value(&self, sizes: &Sizes) -> Result<u64, String> {
        let (operator, operands) = match self {
            Expression::Number(number) => return Ok(*number),
            Expression::Axis(name) => {
                return sizes.get(name).copied().ok_or_else(|| format!("no input has an axis {name:?}"));
            }
            Expression::Operation(operator, operands) => (*operator, operands),
        };
        let mut values = operands.iter().map(|operand| operand.value(sizes));
        let mut result = values.next().unwrap_or(Ok(0))?;
        for value in values {
            let value = value?;
            let next = match operator {
                Operator::Add => result.checked_add(value),
                Operator::Sub => result.checked_sub(value),
                Operator::Mul => result.checked_mul(value),
                Operator::Div => result.checked_div(value),
                Operator::CeilDiv if value == 0 => None,
                Operator::CeilDiv => Some(result.div_ceil(value)),
                Operator::Min => Some(result.min(value)),
                Operator::Max => Some(result.max(value)),
            };
            result = next.ok_or_else(|| match operator {
                Operator::Sub => format!("{result} - {value} is less than 0"),
                Operator::Div | Operator::CeilDiv => format!("{result} is divided by 0"),
                _ => format!("{result} and {value} make more than fits"),
            })?;
        }
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn value(expression: Value) -> Result<u64, String> {
        let sizes = Sizes::from([("batch".to_owned(), 10), ("length".to_owned(), 3)]);
        Expression::parse(&expression, "grid[0]")?.value(&sizes)
    }

    #[test]
    fn expressions_have_values() {
        assert_eq!(value(json!(7)), Ok(7));
        assert_eq!(value(json!("batch")), Ok(10));
        assert_eq!(value(json!({"ceil_div": ["batch", 4]})), Ok(3));
        assert_eq!(value(json!({"mul": ["batch", "length", {"add": [1, 1]}]})), Ok(60));
        assert_eq!(value(json!({"max": [{"sub": ["batch", 9]}, {"div": [9, 2]}, {"min": [2, 1]}]})), Ok(4));
    }

    #[test]
    fn what_has_none_says_why_and_where() {
        for (expression, said) in [
            (json!(-1), "grid[0]: must be a whole number"),
            (json!(1.5), "grid[0]: must be a whole number"),
            (json!(null), "grid[0]: must be a number"),
            (json!(""), "grid[0]: must be a number"),
            (json!({}), "grid[0]: must be a number"),
            (json!({"add": [1, 2], "mul": [1, 2]}), "grid[0]: must be a number"),
            (json!({"pow": [1, 2]}), "grid[0]: \"pow\" is unknown"),
            (json!({"sub": [1, 2, 3]}), "grid[0]: \"sub\" takes two operands"),
            (json!({"add": [1]}), "grid[0]: \"add\" takes two or more"),
            (json!({"add": [1, {"mul": [1, "?", true]}]}), "grid[0].add[1].mul[2]: must be a number"),
            (json!("width"), "no input has an axis \"width\""),
            (json!({"sub": [1, "batch"]}), "1 - 10 is less than 0"),
            (json!({"div": [1, 0]}), "1 is divided by 0"),
            (json!({"ceil_div": [1, 0]}), "1 is divided by 0"),
            (json!({"mul": [u64::MAX, 2]}), "more than fits"),
        ] {
            let error = value(expression.clone()).unwrap_err();
            assert!(error.contains(said), "{expression}: {error}");
        }
    }

    #[test]
    fn endless_nesting_is_refused() {
        let deep = (0..100).fold(json!(1), |inner, _| json!({"add": [inner, 1]}));
        assert!(value(deep).unwrap_err().contains("too deep"));
    }
}
