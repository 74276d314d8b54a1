package main

import (
	"bytes"
	"slices"
	"strconv"
	"testing"

	"blaze"
)

func input(t *testing.T, text string) *blaze.Raw {
	t.Helper()
	request, err := parse([]byte(`{"inputs": [`+text+`]}`), "")
	if err != nil {
		t.Fatal(err)
	}
	return request.work.Inputs[0].(*blaze.Raw)
}

func TestListsMayBeNestedOrFlat(t *testing.T) {
	for _, data := range []string{"[1,2,3,4]", "[[1,2],[3,4]]", " [ [ 1 , 2 ] , [ 3e0,\n4.0 ] ] "} {
		raw := input(t, `{"name": "x", "shape": [2, 2], "datatype": "FP32", "data": `+data+`}`)
		values, err := blaze.As[float32](raw)
		if err != nil || !slices.Equal(values.Data, []float32{1, 2, 3, 4}) {
			t.Error(data, values, err)
		}
	}
	texts := input(t, `{"name": "x", "shape": [2, 1], "datatype": "BYTES", "data": [["a,]"], ["ü\n"]]}`)
	if !slices.Equal(texts.Strings, []string{"a,]", "ü\n"}) {
		t.Errorf("%q", texts.Strings)
	}
}

func TestIntegersKeepAllTheirBits(t *testing.T) {
	raw := input(t, `{"name": "x", "shape": [2], "datatype": "INT64", "data": [-9223372036854775808, 9223372036854775807]}`)
	text, err := encode(nil, raw)
	if err != nil || string(text) != "[-9223372036854775808,9223372036854775807]" {
		t.Error(string(text), err)
	}
	for _, value := range []string{"256", "-1", "1.5", "true"} {
		if _, err := parse([]byte(`{"inputs": [{"name": "x", "shape": [1], "datatype": "UINT8", "data": [`+value+`]}]}`), ""); err == nil {
			t.Error(value, "is an UINT8")
		}
	}
}

func TestTextsAsBinaryData(t *testing.T) {
	texts := []string{"", "one", "zwölf"}
	data := joinStrings(texts)
	if got, err := splitStrings(data); err != nil || !slices.Equal(got, texts) {
		t.Error(got, err)
	}
	for size := 1; size < len(data); size++ {
		if got, err := splitStrings(data[:size]); err == nil && len(got) == len(texts) {
			t.Error(size, got)
		}
	}
}

// FuzzParse has no body make the service panic, take more memory than the body does several times, or accept a tensor
// whose data does not match its shape.
func FuzzParse(f *testing.F) {
	seed := func(text string, binary []byte) {
		f.Add([]byte(text), binary)
	}
	seed(`{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}], "parameters": {"timeout": 5, "priority": 1}}`, nil)
	seed(`{"inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}]}`, make([]byte, 8))
	seed(`{"inputs": [{"name": "x", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": 9}}]}`, []byte("\x01\x00\x00\x00a\x00\x00\x00\x00"))
	seed(`{"inputs": [{"name": "x", "shape": [1099511627776], "datatype": "UINT8", "data": []}]}`, nil)
	seed(`{"inputs": [{"name": "x", "shape": [0, -1], "datatype": "BOOL", "data": [[[`, nil)
	f.Fuzz(func(t *testing.T, text, binary []byte) {
		request, err := parse(append(bytes.Clone(text), binary...), strconv.Itoa(len(text)))
		if err != nil {
			return
		}
		for _, value := range request.work.Inputs {
			raw := value.(*blaze.Raw)
			if raw.DType == blaze.String {
				if len(raw.Strings) != raw.Elements() {
					t.Errorf("%+v", raw)
				}
			} else if len(raw.Data) != raw.Elements()*raw.DType.Size() {
				t.Errorf("%+v", raw)
			}
		}
	})
}
