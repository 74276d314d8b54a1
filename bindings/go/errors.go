package blaze

// #include "shim.h"
import "C"

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"
)

// Status says what a call came to, as blaze_status does. Every failure is an error of its own to [errors.Is].
type Status int32

// The kinds of failures. 1xx: an argument; 2xx: the state of things; 3xx: capacity; 4xx: the model; 5xx: the backend;
// 9xx: Blaze itself.
const (
	// ErrInvalidArgument is for an argument out of its range, or otherwise unusable.
	ErrInvalidArgument Status = C.BLAZE_STATUS_INVALID_ARGUMENT
	// ErrNullPointer is for a pointer that must not be NULL; this package never hands one in.
	ErrNullPointer Status = C.BLAZE_STATUS_NULL_POINTER
	// ErrInvalidStruct means that the library is older than this package.
	ErrInvalidStruct Status = C.BLAZE_STATUS_INVALID_STRUCT
	// ErrInvalidConfig is for JSON with an unknown key or a wrong value; the message names its path.
	ErrInvalidConfig Status = C.BLAZE_STATUS_INVALID_CONFIG
	// ErrInvalidName is for a tensor whose name is unknown, given twice, or missing.
	ErrInvalidName Status = C.BLAZE_STATUS_INVALID_NAME
	// ErrInvalidDType is for an element type that is not the model's.
	ErrInvalidDType Status = C.BLAZE_STATUS_INVALID_DTYPE
	// ErrInvalidShape is for a shape that is not the model's.
	ErrInvalidShape Status = C.BLAZE_STATUS_INVALID_SHAPE
	// ErrInvalidSize is for a number of elements that does not match the shape.
	ErrInvalidSize Status = C.BLAZE_STATUS_INVALID_SIZE
	// ErrUnsupported is for what this build or version does not do.
	ErrUnsupported Status = C.BLAZE_STATUS_UNSUPPORTED
	// ErrNotFound means that there is no such model or ticket (any more).
	ErrNotFound Status = C.BLAZE_STATUS_NOT_FOUND
	// ErrShutDown means that the engine is shut down or closed.
	ErrShutDown Status = C.BLAZE_STATUS_SHUT_DOWN
	// ErrBusy means that something is still in use.
	ErrBusy Status = C.BLAZE_STATUS_BUSY
	// ErrCancelled means that the request was cancelled.
	ErrCancelled Status = C.BLAZE_STATUS_CANCELLED
	// ErrExpired means that the request's deadline passed.
	ErrExpired Status = C.BLAZE_STATUS_EXPIRED
	// ErrTimeout means that a call's, or an attempt's, own time ran out.
	ErrTimeout Status = C.BLAZE_STATUS_TIMEOUT
	// ErrInvalidState is for what is not possible in this state.
	ErrInvalidState Status = C.BLAZE_STATUS_INVALID_STATE
	// ErrAlreadyExists means that a model of this name and version is there.
	ErrAlreadyExists Status = C.BLAZE_STATUS_ALREADY_EXISTS
	// ErrQueueFull means that the engine holds as many requests as it may.
	ErrQueueFull Status = C.BLAZE_STATUS_QUEUE_FULL
	// ErrRateLimited is for a request that a rate limit refuses; see [Error.RetryAfter].
	ErrRateLimited Status = C.BLAZE_STATUS_RATE_LIMITED
	// ErrOverQuota is for a request that a tenant's quota refuses.
	ErrOverQuota Status = C.BLAZE_STATUS_OVER_QUOTA
	// ErrOutOfMemory means that the system or the device has no memory left.
	ErrOutOfMemory Status = C.BLAZE_STATUS_OUT_OF_MEMORY
	// ErrOverBudget is for what would not fit into "memory.budget_bytes".
	ErrOverBudget Status = C.BLAZE_STATUS_OVER_BUDGET
	// ErrBufferTooSmall is for a caller's buffer; this package never hands in one too small.
	ErrBufferTooSmall Status = C.BLAZE_STATUS_BUFFER_TOO_SMALL
	// ErrModelNotFound is for a model file that is not there or cannot be read.
	ErrModelNotFound Status = C.BLAZE_STATUS_MODEL_NOT_FOUND
	// ErrModelInvalid is for a corrupt model.
	ErrModelInvalid Status = C.BLAZE_STATUS_MODEL_INVALID
	// ErrModelUnsupported is for a model that needs what the backend does not have.
	ErrModelUnsupported Status = C.BLAZE_STATUS_MODEL_UNSUPPORTED
	// ErrBackendFailed means that the backend failed to run the model.
	ErrBackendFailed Status = C.BLAZE_STATUS_BACKEND_FAILED
	// ErrBackendUnavailable means that the backend's library is missing or too old.
	ErrBackendUnavailable Status = C.BLAZE_STATUS_BACKEND_UNAVAILABLE
	// ErrProviderUnavailable means that none of the execution providers asked for works here.
	ErrProviderUnavailable Status = C.BLAZE_STATUS_PROVIDER_UNAVAILABLE
	// ErrDeviceLost means that the device is gone.
	ErrDeviceLost Status = C.BLAZE_STATUS_DEVICE_LOST
	// ErrInternal is a bug in Blaze, or a panic in a backend. The engine lives on.
	ErrInternal Status = C.BLAZE_STATUS_INTERNAL
)

// String returns the status's name, such as "QUEUE_FULL".
func (s Status) String() string { return C.GoString(C.blaze_status_name(C.blaze_status(s))) }

// Error makes a status usable with [errors.Is].
func (s Status) Error() string { return "blaze: " + s.String() + " (" + strconv.Itoa(int(s)) + ")" }

// Error is a failure that the library reports.
type Error struct {
	// Status is the kind of failure.
	Status Status
	// Message is the library's sentence, for people; it may be empty.
	Message string
	// RetryAfter is the time after which the same call may succeed; 0: not known.
	RetryAfter time.Duration

	cause error
}

// Error returns the name of the status and the message.
func (e *Error) Error() string {
	if e.Message == "" {
		return e.Status.Error()
	}
	return "blaze: " + e.Status.String() + ": " + e.Message
}

// Is reports whether target is the error's status.
func (e *Error) Is(target error) bool {
	status, ok := target.(Status)
	return ok && status == e.Status
}

// Unwrap returns the context's error, if that is why the call ended, or nil.
func (e *Error) Unwrap() error { return e.cause }

// StatusOf returns the status of an error of this package, or 0 if it has none.
func StatusOf(err error) Status {
	var failure *Error
	if errors.As(err, &failure) {
		return failure.Status
	}
	var status Status
	errors.As(err, &status)
	return status
}

// errClosed is what calls on a closed engine return.
func errClosed() error { return &Error{Status: ErrShutDown, Message: "the engine is closed"} }

// fail makes an error of what a call wrote.
func fail(status C.blaze_status, from *C.blaze_error) error {
	if status == 0 {
		return nil
	}
	failure := &Error{Status: Status(status)}
	if from != nil && from.status == status {
		failure.Message = strings.ToValidUTF8(C.GoString(&from.message[0]), "\uFFFD")
		failure.RetryAfter = time.Duration(from.retry_after_ns)
	}
	return failure
}

// because adds the reason why the context ended to an error that follows from it.
func because(ctx context.Context, err *Error) *Error {
	switch err.Status {
	case ErrCancelled:
		err.cause = ctx.Err()
		// The context's end and the engine's own clock tell of the same deadline: which comes first does not matter.
		if errors.Is(err.cause, context.DeadlineExceeded) {
			err.Status = ErrExpired
		}
	case ErrExpired:
		// The engine's clock may be a moment ahead of the context's.
		if _, limited := ctx.Deadline(); limited {
			err.cause = context.DeadlineExceeded
		}
	}
	return err
}

// ended is the error of a call whose context has ended before the work did.
func ended(ctx context.Context) error {
	status := ErrCancelled
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		status = ErrExpired
	}
	return &Error{Status: status, Message: context.Cause(ctx).Error(), cause: ctx.Err()}
}
