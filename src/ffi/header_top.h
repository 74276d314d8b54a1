/*
 * Blaze: an AI inference engine that a program links into itself.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * In short: make an engine (blaze_engine_create) and a completion queue (blaze_queue_create), load a model
 * (blaze_model_load), describe work in a blaze_request, hand it in (blaze_submit), take events out (blaze_poll or
 * blaze_wait), look at the outputs (blaze_event_output), and give each event back (blaze_event_release). Or let
 * blaze_infer do all that for one request.
 *
 * Conventions, which hold for every function:
 * - Functions that can fail return a blaze_status; 0 is success. Outputs are written only on success, but for
 *   `needed`. The reason of a failure goes to an optional blaze_error of the caller's; there is no thread-local
 *   last error.
 * - Any function may be called from any thread, but: a completion queue has one consumer at a time, and destroy
 *   functions are exclusive.
 * - In the child of a fork, calls with engines, queues and events of the parent's return INVALID_STATE (0, where they return
 *   a number) and touch nothing, and destroying and releasing them does nothing. The child may make engines of its own;
 *   ONNX models only if the parent had loaded none. It may exec, and end in any way, at any time.
 * - Signals are the host's: Blaze's threads, and those of ONNX Runtime, have them blocked.
 * - Pointers are checked for NULL, and numbers that stand for enums for their range. blaze_model and blaze_ticket are
 *   numbers that are never used again, so stale ones are found out (NOT_FOUND).
 * - Structs begin with struct_size, which the caller sets to sizeof: BLAZE_..._INIT does. They may grow at their end: an
 *   older, shorter one is accepted, and so is a newer, longer one with zeroes in what this library does not know.
 * - Configuration is JSON, with unknown keys and wrong types as errors that name the path.
 * - Strings are UTF-8. Times are in nanoseconds, sizes in bytes, as the names say (_ns, _bytes).
 * - Text is returned into a caller's buffer: with NULL and 0 a call says in `needed` how many bytes that takes.
 * - The library never aborts, exits, prints (unless "log" says so) or installs signal handlers, and no panic inside it
 *   reaches the caller: it becomes INTERNAL.
 */

#ifndef BLAZE_H
#define BLAZE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
