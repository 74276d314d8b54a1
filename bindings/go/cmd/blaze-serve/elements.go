package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"

	"blaze"
)

// decode reads the elements of a tensor from JSON: a list, flat or nested as the shape says. Which brackets there are
// does not matter, as the order of the elements is the same; how many elements there are does.
func decode(tensor *blaze.Raw, data []byte, count int) error {
	if tensor.DType == blaze.String {
		return decodeStrings(tensor, data)
	}
	tensor.Data = make([]byte, 0, count*tensor.DType.Size())
	found := 0
	for at := 0; at < len(data); {
		switch data[at] {
		case '[', ']', ',', ' ', '\t', '\r', '\n':
			at++
			continue
		}
		end := at
		for end < len(data) && data[end] != ',' && data[end] != ']' && data[end] > ' ' {
			end++
		}
		if found++; found > count {
			return fmt.Errorf("the data has more elements than the shape")
		}
		var err error
		if tensor.Data, err = appendElement(tensor.Data, tensor.DType, data[at:end]); err != nil {
			return fmt.Errorf("element %d: %w", found-1, err)
		}
		at = end
	}
	return nil
}

// appendElement adds a number or a truth value in the machine's byte order, which is little-endian wherever Blaze runs.
func appendElement(to []byte, dtype blaze.DType, text []byte) ([]byte, error) {
	switch dtype {
	case blaze.Bool:
		switch string(text) {
		case "true", "1":
			return append(to, 1), nil
		case "false", "0":
			return append(to, 0), nil
		}
		return nil, fmt.Errorf("%q is neither true nor false", text)
	case blaze.Float32:
		value, err := strconv.ParseFloat(string(text), 32)
		return binary.LittleEndian.AppendUint32(to, math.Float32bits(float32(value))), err
	case blaze.Float64:
		value, err := strconv.ParseFloat(string(text), 64)
		return binary.LittleEndian.AppendUint64(to, math.Float64bits(value)), err
	case blaze.Int8, blaze.Int16, blaze.Int32, blaze.Int64:
		value, err := strconv.ParseInt(string(text), 10, 8*dtype.Size())
		return appendWord(to, uint64(value), dtype.Size()), err
	case blaze.Uint8, blaze.Uint16, blaze.Uint32, blaze.Uint64:
		value, err := strconv.ParseUint(string(text), 10, 8*dtype.Size())
		return appendWord(to, value, dtype.Size()), err
	}
	return nil, fmt.Errorf("elements of %s can only be given as binary data", datatypes[dtype])
}

func appendWord(to []byte, value uint64, size int) []byte {
	for range size {
		to = append(to, byte(value))
		value >>= 8
	}
	return to
}

func decodeStrings(tensor *blaze.Raw, data []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	for {
		token, err := decoder.Token()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		switch token := token.(type) {
		case string:
			tensor.Strings = append(tensor.Strings, token)
		case json.Delim:
			if token == '{' {
				return fmt.Errorf("an object is no text")
			}
		default:
			return fmt.Errorf("%v is no text", token)
		}
	}
}

// encode adds the elements of an output as a flat list.
func encode(to []byte, output *blaze.Raw) ([]byte, error) {
	to = append(to, '[')
	size := output.DType.Size()
	if output.DType == blaze.String {
		for i, text := range output.Strings {
			if i > 0 {
				to = append(to, ',')
			}
			to = appendText(to, text)
		}
		return append(to, ']'), nil
	}
	for at := 0; at+size <= len(output.Data); at += size {
		if at > 0 {
			to = append(to, ',')
		}
		var err error
		if to, err = appendNumber(to, output.DType, output.Data[at:at+size]); err != nil {
			return nil, fmt.Errorf("output %q, element %d: %w", output.Name, at/size, err)
		}
	}
	return append(to, ']'), nil
}

func appendNumber(to []byte, dtype blaze.DType, data []byte) ([]byte, error) {
	float := func(value float64, bits int) ([]byte, error) {
		if math.IsNaN(value) || math.IsInf(value, 0) {
			return nil, bad("%v cannot be written as JSON: ask for binary data", value)
		}
		return strconv.AppendFloat(to, value, 'g', -1, bits), nil
	}
	switch dtype {
	case blaze.Bool:
		return strconv.AppendBool(to, data[0] != 0), nil
	case blaze.Float32:
		return float(float64(math.Float32frombits(binary.LittleEndian.Uint32(data))), 32)
	case blaze.Float64:
		return float(math.Float64frombits(binary.LittleEndian.Uint64(data)), 64)
	case blaze.Half:
		return float(float64(blaze.Float16(binary.LittleEndian.Uint16(data)).Float32()), 32)
	case blaze.Brain16:
		return float(float64(blaze.BFloat16(binary.LittleEndian.Uint16(data)).Float32()), 32)
	case blaze.Int8:
		return strconv.AppendInt(to, int64(int8(data[0])), 10), nil
	case blaze.Int16:
		return strconv.AppendInt(to, int64(int16(binary.LittleEndian.Uint16(data))), 10), nil
	case blaze.Int32:
		return strconv.AppendInt(to, int64(int32(binary.LittleEndian.Uint32(data))), 10), nil
	case blaze.Int64:
		return strconv.AppendInt(to, int64(binary.LittleEndian.Uint64(data)), 10), nil
	case blaze.Uint8:
		return strconv.AppendUint(to, uint64(data[0]), 10), nil
	case blaze.Uint16:
		return strconv.AppendUint(to, uint64(binary.LittleEndian.Uint16(data)), 10), nil
	case blaze.Uint32:
		return strconv.AppendUint(to, uint64(binary.LittleEndian.Uint32(data)), 10), nil
	case blaze.Uint64:
		return strconv.AppendUint(to, binary.LittleEndian.Uint64(data), 10), nil
	}
	return nil, bad("elements of %s cannot be written as JSON: ask for binary data", datatypes[dtype])
}
