/* A CUDA driver for tests on machines without a GPU. It is none: what it is for is who calls what, in which order, and what
 * becomes of it. It says nothing about results or speed on a GPU, and its devices are named accordingly.
 *
 * Streams do nothing until something asks how far they are, addresses of device memory cannot be followed by the host, memory is
 * filled with 0xA5, and every use of a handle that is not alive, or of memory with work under way, ends the process with a
 * message.
 *
 * Environment: FAKECUDA_DEVICES (1), FAKECUDA_MEMORY in bytes for each device (1 GiB). */
#ifndef FAKECUDA_H
#define FAKECUDA_H
#include <stdint.h>

/* The `after`th call of a function from now on (1: the next; 0: every one) fails with a code. One after which a context is of no
 * use makes the device of the current context useless, until it is reset. NULL: no call fails. */
void fakecuda_fail(const char *function, int after, unsigned code);

/* Whether what was to fail has failed. */
int fakecuda_has_failed(void);

/* A device is lost, with a code. */
void fakecuda_lose(int device, unsigned code);

/* Contexts end though they were not released, as with a process. Nobody may be within one. */
void fakecuda_end(void);

/* Kernels take so long from now on. */
void fakecuda_kernel_ns(uint64_t ns);

/* How often a function was called, or one of "kernel NAME", "graph_kernels" (launched by graphs), "device N kernels", "pinned_copies",
 * "pageable_copies", "copied_bytes"; "overlap": the most streams that had work at a time. Since the latest fakecuda_clear. */
unsigned long fakecuda_count(const char *name);
void fakecuda_clear(void);

/* How many there are of "context", "allocation", "registration", "stream", "event", "module", "graph", "exec"; "bytes" of device
 * memory; "pending": operations. */
long fakecuda_live(const char *kind);

/* Memory of a device whose context is there, as a host makes it that uses CUDA itself; 0: none. What is read and written must be
 * there. */
uint64_t fakecuda_allocate(int device, unsigned long bytes);
void fakecuda_free(uint64_t address);
void fakecuda_write(uint64_t address, const void *data, unsigned long bytes);
void fakecuda_read(uint64_t address, void *data, unsigned long bytes);

/* The names of all functions of the driver's that there are; NULL: no more. */
const char *fakecuda_function(int index);

#endif
