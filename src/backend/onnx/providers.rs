//! Which execution providers a session is made with: those of the list from one on that work, the first of which is to run
//! the model. Those behind it run what it cannot.

use super::provider::Provider;
use crate::backend::{ProviderReport, RejectedProvider};
use crate::error::{Error, Result, Status};
use std::collections::BTreeMap;

/// Why there is no session with these providers.
pub enum Trouble {
    /// Others would not help.
    Fatal(Error),
    /// The provider at this place in the attempt cannot be registered.
    Refused { at: usize, reason: String },
    /// All were registered, and the session could not be made.
    Failed(String),
}

/// A session, and how it came about.
pub struct Choice<S> {
    pub session: S,
    pub report: ProviderReport,
    /// What runs the model; `None`: the CPU's provider.
    pub provider: Option<Provider>,
}

/// How many operators each provider has; `None`: nobody knows.
pub type Operators = Option<BTreeMap<String, u64>>;

/// Checks a list before anything is loaded.
pub fn check(providers: &[Provider]) -> Result<()> {
    let mut behind = providers.iter().skip_while(|provider| !provider.is_cpu()).skip(1);
    if let Some(provider) = behind.find(|provider| provider.required) {
        let text = format!(
            "providers[{}].required: {} is behind cpu, which always works",
            provider.index, provider.name
        );
        return Err(Error::new(Status::InvalidConfig, text));
    }
    for (at, provider) in providers.iter().enumerate() {
        if providers[..at].iter().any(|other| other.name == provider.name) {
            let text = format!("providers[{}]: {} is there already", provider.index, provider.name);
            return Err(Error::new(Status::InvalidConfig, text));
        }
    }
    Ok(())
}

/// Makes a session. `attempt` makes one with some providers, whatever the CPU's has to do besides, if the second argument
/// says that it may.
pub fn choose<S>(
    mut providers: Vec<Provider>,
    mut attempt: impl FnMut(&[Provider], bool) -> Result<(S, Operators), Trouble>,
) -> Result<Choice<S>> {
    let cpu = providers.iter().position(Provider::is_cpu);
    providers.truncate(cpu.unwrap_or(providers.len()));
    let mut rejected = Rejected::default();
    let mut first = 0;
    while first < providers.len() {
        let mut tried = attempt(&providers[first..], cpu.is_some());
        if let Err(Trouble::Failed(reason)) = &tried
            && providers.len() > first + 1
        {
            // It may be any of them.
            let reason = format!("not together with {}: {reason}", providers[first].name);
            tried = attempt(&providers[first..=first], cpu.is_some());
            if tried.is_ok() {
                for other in providers.drain(first + 1..) {
                    rejected.add(&other, reason.clone())?;
                }
            }
        }
        match tried {
            Ok((session, operators)) => {
                let operators = operators.unwrap_or_default();
                let mut provider = None;
                for candidate in &providers[first..] {
                    // Nobody knows where there are none at all; then it is what was asked for.
                    if operators.is_empty() || operators.contains_key(candidate.name) {
                        provider = Some(candidate.clone());
                        break;
                    }
                    let running: Vec<&str> = operators.keys().map(String::as_str).collect();
                    let reason = format!(
                        "it was registered, but took none of the model's operators (they run on {})",
                        running.join(", ")
                    );
                    rejected.add(candidate, reason)?;
                }
                if provider.is_none() && cpu.is_none() {
                    return Err(rejected.into_error());
                }
                let used = provider.as_ref().map_or("cpu", |provider| provider.name).into();
                let report = ProviderReport { used, rejected: rejected.0, operators };
                return Ok(Choice { session, report, provider });
            }
            Err(Trouble::Fatal(error)) => return Err(error),
            Err(Trouble::Refused { at, reason }) => {
                rejected.add(&providers.remove(first + at), reason)?;
            }
            Err(Trouble::Failed(reason)) => {
                rejected.add(&providers[first], reason)?;
                first += 1;
            }
        }
    }
    if cpu.is_none() {
        return Err(rejected.into_error());
    }
    on_cpu(attempt, rejected.0)
}

/// Makes a session with the CPU's provider alone.
pub fn on_cpu<S>(
    mut attempt: impl FnMut(&[Provider], bool) -> Result<(S, Operators), Trouble>,
    rejected: Vec<RejectedProvider>,
) -> Result<Choice<S>> {
    match attempt(&[], true) {
        Ok((session, operators)) => {
            let operators = operators.unwrap_or_default();
            let report = ProviderReport { used: "cpu".into(), rejected, operators };
            Ok(Choice { session, report, provider: None })
        }
        Err(Trouble::Fatal(error)) => Err(error),
        Err(Trouble::Refused { reason, .. } | Trouble::Failed(reason)) => {
            Err(Error::new(Status::ModelInvalid, reason))
        }
    }
}

#[derive(Default)]
struct Rejected(Vec<RejectedProvider>);

impl Rejected {
    /// One that is not used; an error if it must be.
    fn add(&mut self, provider: &Provider, reason: String) -> Result<()> {
        if provider.required {
            let text = format!(
                "providers[{}]: {} is required, and cannot be used: {reason}",
                provider.index, provider.name
            );
            return Err(Error::new(Status::ProviderUnavailable, text));
        }
        self.0.push(RejectedProvider { provider: provider.name.into(), reason });
        Ok(())
    }

    fn into_error(self) -> Error {
        let reasons: Vec<String> =
            self.0.iter().map(|rejected| format!("{}: {}", rejected.provider, rejected.reason)).collect();
        let text = format!("none of the providers can run the model: {}", reasons.join("; "));
        Error::new(Status::ProviderUnavailable, text)
    }
}

/// One line on what became of a list.
pub fn summary(report: &ProviderReport) -> String {
    let count = |name: &str, operators: u64| match operators {
        1 => format!("{name} (1 operator)"),
        _ => format!("{name} ({operators} operators)"),
    };
    let running = match report.operators.is_empty() {
        true => report.used.clone(),
        false => {
            // The one that is used first.
            let mut running: Vec<(&String, &u64)> = report.operators.iter().collect();
            running.sort_unstable_by_key(|(name, _)| (**name != report.used, name.to_owned()));
            let running: Vec<String> = running.into_iter().map(|(name, &n)| count(name, n)).collect();
            running.join(" and ")
        }
    };
    let rejected: Vec<String> = report
        .rejected
        .iter()
        .map(|rejected| format!("; {} is not used: {}", rejected.provider, rejected.reason))
        .collect();
    format!("runs on {running}{}", rejected.concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ProviderConfig;
    use serde_json::{Value, json};

    fn list(providers: Value) -> Vec<Provider> {
        let configs: Vec<ProviderConfig> = serde_json::from_value(providers).unwrap();
        let parse = |(at, config): (usize, &ProviderConfig)| Provider::parse(at, config, |_| None).unwrap();
        configs.iter().enumerate().map(parse).collect()
    }

    fn operators(counts: &[(&str, u64)]) -> Operators {
        Some(counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect())
    }

    /// Makes a choice where attempts end as told, by the names that are tried.
    fn chosen(
        providers: Value,
        mut outcome: impl FnMut(&str, bool) -> Result<Operators, Trouble>,
    ) -> (Result<Choice<()>>, Vec<String>) {
        let mut attempts = Vec::new();
        let choice = choose(list(providers), |chain, cpu| {
            let names: Vec<&str> = chain.iter().map(|provider| provider.name).collect();
            attempts.push(names.join("+"));
            outcome(&names.join("+"), cpu).map(|operators| ((), operators))
        });
        (choice, attempts)
    }

    fn refused(at: usize) -> Result<Operators, Trouble> {
        Err(Trouble::Refused { at, reason: "it is not there".into() })
    }

    fn rejected(choice: &Choice<()>) -> Vec<&str> {
        choice.report.rejected.iter().map(|rejected| rejected.provider.as_str()).collect()
    }

    #[test]
    fn one_that_is_not_there_is_passed_over_unless_it_is_required() {
        let outcome = |names: &str, cpu: bool| {
            assert!(cpu);
            if names.is_empty() { Ok(operators(&[("cpu", 3)])) } else { refused(0) }
        };
        let (choice, attempts) = chosen(json!(["cuda", "cpu", "qnn"]), outcome);
        let choice = choice.unwrap();
        assert_eq!(attempts, ["cuda", ""]);
        assert!(choice.provider.is_none() && choice.report.used == "cpu" && rejected(&choice) == ["cuda"]);
        let line = "runs on cpu (3 operators); cuda is not used: it is not there";
        assert_eq!(summary(&choice.report), line);

        let (choice, _) = chosen(json!([{"name": "cuda", "required": true}, "cpu"]), outcome);
        let error = choice.err().unwrap();
        assert_eq!(error.status, Status::ProviderUnavailable);
        assert_eq!(error.message, "providers[0]: cuda is required, and cannot be used: it is not there");
    }

    #[test]
    fn without_the_cpu_there_is_no_falling_back() {
        let (choice, attempts) = chosen(json!(["tensorrt", "cuda"]), |_, cpu| {
            assert!(!cpu);
            refused(0)
        });
        let error = choice.err().unwrap();
        assert_eq!(attempts, ["tensorrt+cuda", "cuda"]);
        assert_eq!(error.status, Status::ProviderUnavailable);
        assert!(error.message.contains("tensorrt: it is not there; cuda: it is not there"), "{error}");
        // Registered, but idle.
        let (choice, _) = chosen(json!(["cuda"]), |_, _| Ok(operators(&[("cpu", 1)])));
        assert!(
            choice.err().unwrap().message.contains("took none of the model's operators (they run on cpu)")
        );
    }

    #[test]
    fn those_behind_run_what_the_first_cannot() {
        let all = operators(&[("tensorrt", 5), ("cuda", 2), ("cpu", 1)]);
        let (choice, attempts) = chosen(json!(["tensorrt", "cuda", "cpu"]), |_, _| Ok(all.clone()));
        let choice = choice.unwrap();
        assert_eq!(attempts, ["tensorrt+cuda"]);
        assert!(choice.provider.is_some_and(|provider| provider.name == "tensorrt"));
        let line = "runs on tensorrt (5 operators) and cpu (1 operator) and cuda (2 operators)";
        assert_eq!(summary(&choice.report), line);
        // The first of them has nothing to do.
        let (choice, _) = chosen(json!(["tensorrt", "cuda"]), |_, _| Ok(operators(&[("cuda", 8)])));
        let choice = choice.unwrap();
        assert!(choice.report.used == "cuda" && rejected(&choice) == ["tensorrt"]);
        // Nobody knows.
        let (choice, _) = chosen(json!(["tensorrt", "cuda"]), |_, _| Ok(None));
        assert_eq!(summary(&choice.unwrap().report), "runs on tensorrt");
    }

    #[test]
    fn a_session_that_cannot_be_made_is_tried_with_fewer() {
        let failed = || Err(Trouble::Failed("no driver".into()));
        let outcome = |names: &str, _: bool| match names {
            "cuda" => Ok(operators(&[("cuda", 8)])),
            _ => failed(),
        };
        let (choice, attempts) = chosen(json!(["tensorrt", "cuda", "cpu"]), outcome);
        assert_eq!(attempts, ["tensorrt+cuda", "tensorrt", "cuda"]);
        assert_eq!(rejected(&choice.unwrap()), ["tensorrt"]);
        let outcome = |names: &str, _: bool| match names {
            "tensorrt" => Ok(operators(&[("tensorrt", 8)])),
            _ => failed(),
        };
        let (choice, attempts) = chosen(json!(["tensorrt", "cuda", "cpu"]), outcome);
        let choice = choice.unwrap();
        assert_eq!((attempts.len(), rejected(&choice)), (2, vec!["cuda"]));
        assert_eq!(choice.report.rejected[0].reason, "not together with tensorrt: no driver");
    }

    #[test]
    fn what_others_would_not_help_with_ends_it() {
        let fatal = || Err(Trouble::Fatal(Error::new(Status::ModelInvalid, "broken")));
        let (choice, attempts) = chosen(json!(["cuda", "cpu"]), |_, _| fatal());
        assert_eq!((choice.err().unwrap().status, attempts.len()), (Status::ModelInvalid, 1));
    }

    #[test]
    fn lists_that_make_no_sense_are_refused() {
        let message = |providers| super::check(&list(providers)).unwrap_err().message;
        let behind = message(json!(["cpu", {"name": "cuda", "required": true}]));
        assert!(behind.starts_with("providers[1].required: "), "{behind}");
        assert!(message(json!(["cuda", "cpu", "cuda"])).starts_with("providers[2]: "));
        super::check(&list(json!(["cpu", "cuda"]))).unwrap();
    }
}
