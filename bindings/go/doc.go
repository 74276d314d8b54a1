// Package blaze runs AI models in the process, through libblaze's C ABI.
//
// An [Engine] holds models; a [Model] answers requests:
//
//	engine, err := blaze.New(map[string]any{
//		"models": []any{map[string]any{"name": "digits", "path": "models/digits/digits.onnx"}},
//	})
//	if err != nil {
//		return err
//	}
//	defer engine.Close()
//	model, err := engine.Model("digits")
//	if err != nil {
//		return err
//	}
//	response, err := model.Infer(ctx, blaze.NewTensor(pixels, 1, 1, 8, 8))
//	if err != nil {
//		return err
//	}
//	scores, err := blaze.As[float32](response.Output(0))
//
// Concurrency: everything may be called from any goroutine, [Engine.Close] too, as often as one likes. Requests of many
// goroutines are joined into batches by the engine. [Model.Infer] waits, [Model.Submit] gives a [Future], and
// [Model.SubmitAll] hands in many requests in one call of C, which is what to use for much small work: a crossing from Go
// to C costs as much as a small request.
//
// Contexts: the deadline of a request's context is the request's deadline inside the engine, and when the context ends,
// the request is cancelled at once. Such errors are [context.Canceled] or [context.DeadlineExceeded] to [errors.Is], and
// [ErrCancelled] or [ErrExpired] as well.
//
// Memory: inputs are copied before a call returns, outputs are ordinary Go memory. Nothing has to be given back but the
// engine itself.
//
// Errors: an [*Error] has the library's status, its message, and for [ErrRateLimited] the time after which the same
// request may pass. Each status is an error of its own: errors.Is(err, blaze.ErrQueueFull).
//
// Configurations are what the C header says, as JSON: a string, a []byte or a [json.RawMessage] with the text, or anything
// that [encoding/json] makes such a text of.
//
// Building: cgo asks pkg-config for the package blaze, which an installed libblaze has. CGO_CFLAGS and CGO_LDFLAGS are
// added to what it says.
//
// A program that forks without exec, or a child of one, must not use the package.
package blaze
