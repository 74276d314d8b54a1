package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"time"

	"blaze"
)

// datatypes are the protocol's names of element types.
var datatypes = map[blaze.DType]string{
	blaze.Bool: "BOOL", blaze.Uint8: "UINT8", blaze.Uint16: "UINT16", blaze.Uint32: "UINT32", blaze.Uint64: "UINT64",
	blaze.Int8: "INT8", blaze.Int16: "INT16", blaze.Int32: "INT32", blaze.Int64: "INT64", blaze.Half: "FP16",
	blaze.Float32: "FP32", blaze.Float64: "FP64", blaze.String: "BYTES", blaze.Brain16: "BF16",
}

var dtypes = func() map[string]blaze.DType {
	named := map[string]blaze.DType{}
	for dtype, name := range datatypes {
		named[name] = dtype
	}
	return named
}()

// datatypeNamed translates the engine's name of an element type.
func datatypeNamed(name string) string {
	for dtype, datatype := range datatypes {
		if dtype.String() == name {
			return datatype
		}
	}
	return name
}

// inferRequest is the JSON of a request.
type inferRequest struct {
	ID         string          `json:"id"`
	Inputs     []inputTensor   `json:"inputs"`
	Outputs    []outputRequest `json:"outputs"`
	Parameters parameters      `json:"parameters"`

	work blaze.Request
}

type inputTensor struct {
	Name       string          `json:"name"`
	Shape      []int64         `json:"shape"`
	Datatype   string          `json:"datatype"`
	Data       json.RawMessage `json:"data"`
	Parameters struct {
		BinaryDataSize *int `json:"binary_data_size"`
	} `json:"parameters"`
}

type outputRequest struct {
	Name       string `json:"name"`
	Parameters struct {
		BinaryData     *bool `json:"binary_data"`
		Classification int   `json:"classification"`
	} `json:"parameters"`
}

// parameters of a request. Those that are not known are ignored, as the protocol wants it.
type parameters struct {
	BinaryDataOutput bool            `json:"binary_data_output"`
	Timeout          json.Number     `json:"timeout"`     // in microseconds, as Triton has it
	Priority         json.Number     `json:"priority"`    // 0: normal, 1: the highest, others: low
	SequenceID       json.RawMessage `json:"sequence_id"` // a number; texts are ignored
}

// maxElements is more than fits into memory, and far from an overflow.
const maxElements = 1 << 40

// parse makes a request of a body: JSON, and behind it the binary data of the inputs that have some. Inputs with binary
// data are over the body.
func parse(body []byte, header string) (*inferRequest, error) {
	text, binaryData := body, []byte(nil)
	if header != "" {
		size, err := strconv.Atoi(header)
		if err != nil || size < 0 || size > len(body) {
			return nil, bad("Inference-Header-Content-Length is %q, and the body has %d bytes", header, len(body))
		}
		text, binaryData = body[:size], body[size:]
	}
	request := &inferRequest{}
	if err := json.Unmarshal(text, request); err != nil {
		return nil, bad("the request is not what the protocol wants: %w", err)
	}
	if len(request.Inputs) == 0 {
		return nil, bad("the request has no inputs")
	}
	for i := range request.Inputs {
		tensor, rest, err := request.Inputs[i].tensor(binaryData)
		if err != nil {
			return nil, err
		}
		binaryData = rest
		request.work.Inputs = append(request.work.Inputs, tensor)
	}
	if len(binaryData) > 0 {
		return nil, bad("%d bytes behind the last input", len(binaryData))
	}
	if timeout, err := request.Parameters.Timeout.Int64(); err == nil && timeout > 0 {
		request.work.Timeout = time.Duration(min(timeout, int64(time.Hour/time.Microsecond))) * time.Microsecond
	}
	switch priority, err := request.Parameters.Priority.Int64(); {
	case err != nil || priority <= 0:
	case priority == 1:
		request.work.Priority = blaze.PriorityHigh
	default:
		request.work.Priority = blaze.PriorityLow
	}
	if session, err := strconv.ParseUint(string(request.Parameters.SequenceID), 10, 64); err == nil {
		request.work.Session = session
	}
	return request, nil
}

// tensor makes a tensor of an input, with what it takes of the binary data.
func (t *inputTensor) tensor(from []byte) (*blaze.Raw, []byte, error) {
	dtype, ok := dtypes[t.Datatype]
	if !ok {
		return nil, nil, bad("input %q: the datatype %q is not known", t.Name, t.Datatype)
	}
	count := int64(1)
	for _, size := range t.Shape {
		if size < 0 || (size > 0 && count > maxElements/size) {
			return nil, nil, bad("input %q: the shape %v is not possible", t.Name, t.Shape)
		}
		count *= size
	}
	tensor := &blaze.Raw{Name: t.Name, DType: dtype, Shape: t.Shape}
	var err error
	if size := t.Parameters.BinaryDataSize; size != nil {
		if *size < 0 || *size > len(from) || t.Data != nil {
			return nil, nil, bad("input %q: there are no %d bytes of binary data for it, or it has other data", t.Name, *size)
		}
		data := from[:*size]
		from = from[*size:]
		if dtype == blaze.String {
			tensor.Strings, err = splitStrings(data)
		} else {
			tensor.Data = data
		}
	} else {
		// A request cannot have more elements than bytes, so that a shape does not reserve memory.
		if count > int64(len(t.Data)) {
			return nil, nil, bad("input %q: the data has fewer elements than the shape %v", t.Name, t.Shape)
		}
		err = decode(tensor, t.Data, int(count))
	}
	if err != nil {
		return nil, nil, bad("input %q: %w", t.Name, err)
	}
	if size := int64(dtype.Size()); dtype != blaze.String && int64(len(tensor.Data)) != count*size {
		return nil, nil, bad("input %q: %d bytes of data, and the shape %v takes %d", t.Name, len(tensor.Data), t.Shape, count*size)
	} else if dtype == blaze.String && int64(len(tensor.Strings)) != count {
		return nil, nil, bad("input %q: %d elements, and the shape %v has %d", t.Name, len(tensor.Strings), t.Shape, count)
	}
	return tensor, from, nil
}

// splitStrings takes texts apart, each behind its size in four bytes.
func splitStrings(data []byte) ([]string, error) {
	var texts []string
	for len(data) > 0 {
		if len(data) < 4 {
			return nil, bad("a text's size is cut off")
		}
		size := binary.LittleEndian.Uint32(data)
		if data = data[4:]; uint64(size) > uint64(len(data)) {
			return nil, bad("a text is cut off")
		}
		texts = append(texts, string(data[:size]))
		data = data[size:]
	}
	return texts, nil
}

func joinStrings(texts []string) []byte {
	var data []byte
	for _, text := range texts {
		data = binary.LittleEndian.AppendUint32(data, uint32(len(text)))
		data = append(data, text...)
	}
	return data
}

// answer writes the response: JSON, and behind it the outputs that are wanted as binary data.
func (r *inferRequest) answer(w http.ResponseWriter, m *model, name string, response *blaze.Response) error {
	order := make([]int, 0, len(response.Outputs))
	for _, wanted := range r.Outputs {
		if wanted.Parameters.Classification > 0 {
			return bad("output %q: classification is not supported", wanted.Name)
		}
		index := slices.IndexFunc(response.Outputs, func(output blaze.Raw) bool { return output.Name == wanted.Name })
		if index < 0 {
			return bad("the model has no output %q", wanted.Name)
		}
		order = append(order, index)
	}
	if len(r.Outputs) == 0 {
		for i := range response.Outputs {
			order = append(order, i)
		}
	}
	buffer := buffers.Get().(*bytes.Buffer)
	buffer.Reset()
	defer buffers.Put(buffer)
	text := buffer.AvailableBuffer()
	text = append(text, `{"model_name":`...)
	text = appendText(text, name)
	text = append(text, `,"model_version":"`...)
	text = append(text, m.version()...)
	text = append(text, '"')
	if r.ID != "" {
		text = append(text, `,"id":`...)
		text = appendText(text, r.ID)
	}
	text = append(text, `,"outputs":[`...)
	var binaryData [][]byte
	for i, index := range order {
		output := &response.Outputs[index]
		datatype, ok := datatypes[output.DType]
		if !ok {
			return &problem{http.StatusNotImplemented, &blaze.Error{Status: blaze.ErrUnsupported,
				Message: "the protocol has no " + output.DType.String()}}
		}
		if i > 0 {
			text = append(text, ',')
		}
		text = append(text, `{"name":`...)
		text = appendText(text, output.Name)
		text = append(text, `,"datatype":"`...)
		text = append(text, datatype...)
		text = append(text, `","shape":[`...)
		for axis, size := range output.Shape {
			if axis > 0 {
				text = append(text, ',')
			}
			text = strconv.AppendInt(text, size, 10)
		}
		text = append(text, ']')
		binaryWanted := r.Parameters.BinaryDataOutput
		if i < len(r.Outputs) && r.Outputs[i].Parameters.BinaryData != nil {
			binaryWanted = *r.Outputs[i].Parameters.BinaryData
		}
		if binaryWanted {
			data := output.Data
			if output.DType == blaze.String {
				data = joinStrings(output.Strings)
			}
			binaryData = append(binaryData, data)
			text = append(text, `,"parameters":{"binary_data_size":`...)
			text = strconv.AppendInt(text, int64(len(data)), 10)
			text = append(text, '}')
		} else {
			text = append(text, `,"data":`...)
			var err error
			if text, err = encode(text, output); err != nil {
				return err
			}
		}
		text = append(text, '}')
	}
	text = append(text, "]}"...)
	size := len(text)
	header := w.Header()
	if binaryData != nil {
		header.Set("Content-Type", "application/octet-stream")
		header.Set("Inference-Header-Content-Length", strconv.Itoa(size))
		for _, data := range binaryData {
			size += len(data)
		}
	} else {
		header.Set("Content-Type", "application/json")
	}
	header.Set("Content-Length", strconv.Itoa(size))
	// A client that has gone away cannot be told so.
	_, _ = w.Write(text)
	for _, data := range binaryData {
		_, _ = w.Write(data)
	}
	return nil
}

func appendText(to []byte, text string) []byte {
	quoted, _ := json.Marshal(text)
	return append(to, quoted...)
}
