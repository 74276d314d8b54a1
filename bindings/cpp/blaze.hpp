// Blaze for C++17 and later: this header and those beside it in blaze/, over blaze.h and libblaze. Nothing else is needed.
//
// SPDX-License-Identifier: MIT OR Apache-2.0
//
// In short: make a blaze::engine, load a blaze::model, and call infer with tensors; or submit requests, and take their
// events from a blaze::queue; or have a blaze::dispatcher answer futures, callbacks and coroutines.
//
//     blaze::engine engine = blaze::engine::create();
//     blaze::model digits = engine.load(R"({"name": "digits", "path": "digits.onnx"})");
//     blaze::event answer = digits.infer(blaze::tensor(pixels, {1, 1, 8, 8}));
//     for (float probability : answer.values<float>(0)) ...
//
// Conventions, which hold everywhere:
// - A function try_x returns a result<T>: a value, or an error with a status, a message and, for RATE_LIMITED, a time after
//   which it may succeed. The function x returns the T and throws blaze::exception with that error. Functions x exist
//   only where the compiler has exceptions on (BLAZE_HAS_EXCEPTIONS); everything else works with -fno-exceptions and
//   -fno-rtti. Which statuses a call can come to is in blaze.h, at the C function that its documentation names.
// - What is neither try_ nor has a try_ form cannot fail. Memory that the program's own allocator does not have is
//   std::bad_alloc everywhere, as in the standard library.
// - engine, queue and dispatcher are move-only and free what they own. They and models share the engine: it ends with the
//   last of them, so they may be destroyed in any order. One that was moved from can be destroyed and assigned to; calls of
//   its try_ functions give NULL_POINTER, its other functions do nothing.
// - Any function may be called from any thread, but: a queue has one consumer at a time, a polled dispatcher one thread
//   at a time that polls, and moving, assigning and destroying an object excludes other uses of that object.
// - Times are std::chrono durations, sizes are bytes where a name says so and elements otherwise.
// - Strings that go in are blaze::cstring: a const char * that ends in a NUL, or a std::string. They are read during the
//   call, but for names of tensors: those are read when the request is submitted.
// - The layout of every class is the same for every standard and every flag, so that parts of a program that were compiled
//   differently can share objects.
#ifndef BLAZE_HPP
#define BLAZE_HPP

#include "blaze/base.hpp"
#include "blaze/dispatcher.hpp"
#include "blaze/engine.hpp"
#include "blaze/event.hpp"
#include "blaze/model.hpp"
#include "blaze/queue.hpp"
#include "blaze/request.hpp"
#include "blaze/tensor.hpp"

#endif
