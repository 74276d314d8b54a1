package blaze

// #include "shim.h"
import "C"

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"unsafe"
)

// DType is an element type, numbered as in ONNX.
type DType uint32

// The element types.
const (
	Float32      DType = C.BLAZE_DTYPE_F32
	Uint8        DType = C.BLAZE_DTYPE_U8
	Int8         DType = C.BLAZE_DTYPE_I8
	Uint16       DType = C.BLAZE_DTYPE_U16
	Int16        DType = C.BLAZE_DTYPE_I16
	Int32        DType = C.BLAZE_DTYPE_I32
	Int64        DType = C.BLAZE_DTYPE_I64
	String       DType = C.BLAZE_DTYPE_STRING
	Bool         DType = C.BLAZE_DTYPE_BOOL
	Half         DType = C.BLAZE_DTYPE_F16
	Float64      DType = C.BLAZE_DTYPE_F64
	Uint32       DType = C.BLAZE_DTYPE_U32
	Uint64       DType = C.BLAZE_DTYPE_U64
	Complex64    DType = C.BLAZE_DTYPE_COMPLEX64
	Complex128   DType = C.BLAZE_DTYPE_COMPLEX128
	Brain16      DType = C.BLAZE_DTYPE_BF16
	Float8E4M3FN DType = C.BLAZE_DTYPE_F8E4M3FN
	Float8E5M2   DType = C.BLAZE_DTYPE_F8E5M2
)

var dtypeNames = map[DType]string{
	Float32: "f32", Uint8: "u8", Int8: "i8", Uint16: "u16", Int16: "i16", Int32: "i32", Int64: "i64", String: "string",
	Bool: "bool", Half: "f16", Float64: "f64", Uint32: "u32", Uint64: "u64", Complex64: "complex64",
	Complex128: "complex128", Brain16: "bf16", Float8E4M3FN: "f8e4m3fn", Float8E5M2: "f8e5m2",
}

// String returns the type's name, as models' descriptions have it.
func (d DType) String() string {
	if name, ok := dtypeNames[d]; ok {
		return name
	}
	return "dtype " + strconv.Itoa(int(d))
}

// Size returns the bytes of one element; 0 for strings, and for types of less than a byte.
func (d DType) Size() int {
	switch d {
	case Uint8, Int8, Bool, Float8E4M3FN, Float8E5M2, C.BLAZE_DTYPE_F8E4M3FNUZ, C.BLAZE_DTYPE_F8E5M2FNUZ, C.BLAZE_DTYPE_F8E8M0:
		return 1
	case Uint16, Int16, Half, Brain16:
		return 2
	case Float32, Int32, Uint32:
		return 4
	case Float64, Int64, Uint64, Complex64:
		return 8
	case Complex128:
		return 16
	}
	return 0
}

// Float16 is the bits of a 16-bit IEEE float.
type Float16 uint16

// Float32 returns the value, exactly.
func (f Float16) Float32() float32 {
	sign, exponent, fraction := uint32(f>>15)<<31, uint32(f>>10)&31, uint32(f)&1023
	switch exponent {
	case 0: // zero and subnormals: fraction × 2⁻²⁴
		value := float32(fraction) / (1 << 24)
		return math.Float32frombits(math.Float32bits(value) | sign)
	case 31:
		return math.Float32frombits(sign | 255<<23 | fraction<<13)
	}
	return math.Float32frombits(sign | (exponent+112)<<23 | fraction<<13)
}

// BFloat16 is the upper 16 bits of a 32-bit float.
type BFloat16 uint16

// Float32 returns the value, exactly.
func (f BFloat16) Float32() float32 { return math.Float32frombits(uint32(f) << 16) }

// Element is a type that the elements of a [Tensor] may have.
type Element interface {
	float32 | float64 | int8 | int16 | int32 | int64 | uint8 | uint16 | uint32 | uint64 | bool | complex64 | complex128 |
		Float16 | BFloat16 | string
}

// DTypeOf returns the element type that the library has for a Go type.
func DTypeOf[T Element]() DType {
	switch any(*new(T)).(type) {
	case float32:
		return Float32
	case float64:
		return Float64
	case int8:
		return Int8
	case int16:
		return Int16
	case int32:
		return Int32
	case int64:
		return Int64
	case uint8:
		return Uint8
	case uint16:
		return Uint16
	case uint32:
		return Uint32
	case uint64:
		return Uint64
	case bool:
		return Bool
	case complex64:
		return Complex64
	case complex128:
		return Complex128
	case Float16:
		return Half
	case BFloat16:
		return Brain16
	default:
		return String
	}
}

// Value is a tensor of whatever element type, to be given to a model: a [*Tensor], or a [*Raw].
type Value interface {
	// view describes the tensor; what it points to stays the tensor's.
	view() view
}

// view is a tensor without its type. Of data and strings one is used.
type view struct {
	name    string
	dtype   DType
	shape   []int64
	data    []byte
	strings []string
}

// Tensor is row-major elements of a known type.
type Tensor[T Element] struct {
	// Name is the model's name of the input; empty: by position.
	Name string
	// Shape has the sizes of the axes, outermost first.
	Shape []int64
	// Data has the elements.
	Data []T
}

// NewTensor returns a tensor over data, which is not copied. Without a shape it has one axis.
func NewTensor[T Element](data []T, shape ...int64) *Tensor[T] {
	if len(shape) == 0 {
		shape = []int64{int64(len(data))}
	}
	return &Tensor[T]{Shape: shape, Data: data}
}

// Named gives the tensor the name of the model's input that it is for, and returns it.
func (t *Tensor[T]) Named(name string) *Tensor[T] {
	t.Name = name
	return t
}

// DType returns the type of the elements.
func (t *Tensor[T]) DType() DType { return DTypeOf[T]() }

func (t *Tensor[T]) view() view {
	v := view{name: t.Name, dtype: DTypeOf[T](), shape: t.Shape}
	if v.dtype == String {
		v.strings = any(t.Data).([]string)
	} else if len(t.Data) > 0 {
		v.data = unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(t.Data))), len(t.Data)*int(unsafe.Sizeof(t.Data[0])))
	}
	return v
}

// Raw is a tensor whose element type is known only at run time: what a model returns, or what a service forwards.
type Raw struct {
	// Name is the model's name of the input or output.
	Name string
	// DType is the type of the elements.
	DType DType
	// Shape has the sizes of the axes, outermost first.
	Shape []int64
	// Data has the elements in the machine's byte order; nil for strings.
	Data []byte
	// Strings has the elements of a tensor of strings.
	Strings []string
}

func (r *Raw) view() view {
	return view{name: r.Name, dtype: r.DType, shape: r.Shape, data: r.Data, strings: r.Strings}
}

// Elements returns how many elements the tensor has, by its shape.
func (r *Raw) Elements() int {
	count := 1
	for _, size := range r.Shape {
		count *= int(size)
	}
	return count
}

// As returns a tensor with its type. It is over the same memory if that is aligned, as the memory of outputs is. It fails
// if r is nil, or has another type or number of elements.
func As[T Element](r *Raw) (*Tensor[T], error) {
	if r == nil {
		return nil, &Error{Status: ErrNotFound, Message: "there is no such tensor"}
	}
	dtype := DTypeOf[T]()
	if r.DType != dtype {
		return nil, &Error{Status: ErrInvalidDType, Message: fmt.Sprintf("%q has elements of %v, not %v", r.Name, r.DType, dtype)}
	}
	t := &Tensor[T]{Name: r.Name, Shape: r.Shape}
	if dtype == String {
		t.Data = any(r.Strings).([]T)
		return t, nil
	}
	size := int(unsafe.Sizeof(*new(T)))
	if len(r.Data)%size != 0 {
		return nil, &Error{Status: ErrInvalidSize, Message: fmt.Sprintf("%q has %d bytes, in elements of %d", r.Name, len(r.Data), size)}
	}
	if len(r.Data) == 0 {
		return t, nil
	}
	data := r.Data
	if uintptr(unsafe.Pointer(unsafe.SliceData(data)))%unsafe.Alignof(*new(T)) != 0 {
		whole := make([]T, len(data)/size)
		copy(unsafe.Slice((*byte)(unsafe.Pointer(&whole[0])), len(data)), data)
		t.Data = whole
		return t, nil
	}
	t.Data = unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(data))), len(data)/size)
	return t, nil
}

// Stack joins tensors of equal shapes along the first axis: n of [1, 8, 8] make [n, 8, 8].
func Stack[T Element](tensors ...*Tensor[T]) (*Tensor[T], error) {
	if len(tensors) == 0 {
		return nil, &Error{Status: ErrInvalidArgument, Message: "there is nothing to stack"}
	}
	first := tensors[0]
	if len(first.Shape) == 0 {
		return nil, &Error{Status: ErrInvalidShape, Message: "a tensor without axes cannot be stacked"}
	}
	whole := &Tensor[T]{Name: first.Name, Shape: slices.Clone(first.Shape)}
	whole.Shape[0] = 0
	for _, t := range tensors {
		if len(t.Shape) != len(first.Shape) || !slices.Equal(t.Shape[1:], first.Shape[1:]) {
			return nil, &Error{Status: ErrInvalidShape, Message: fmt.Sprintf("shapes %v and %v cannot be stacked", first.Shape, t.Shape)}
		}
		whole.Shape[0] += t.Shape[0]
		whole.Data = append(whole.Data, t.Data...)
	}
	return whole, nil
}
