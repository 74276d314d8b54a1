// Kernels for tests and measurements of the CUDA backend. kernels.ptx is made of this by `make ptx`.

// y = factor * x
extern "C" __global__ void scale(const float *x, float *y, unsigned count, float factor) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) y[i] = factor * x[i];
}

// y = a + b
extern "C" __global__ void add(const float *a, const float *b, float *y, unsigned count) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) y[i] = a[i] + b[i];
}

// y = x, four floats at a time: what the memory can do. Any grid copies all of it.
extern "C" __global__ void copy(const float4 *x, float4 *y, unsigned long long count) {
    unsigned long long step = (unsigned long long)gridDim.x * blockDim.x;
    for (unsigned long long i = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += step) y[i] = x[i];
}

#define TILE 16

// One layer of a network: y[rows, columns] = act(x[rows, depth] * w[depth, columns] + bias[columns]), act being max(0, .) if
// relu is not 0. Blocks of 16 x 16 threads, each of which computes one element, from tiles in shared memory.
extern "C" __global__ void dense(const float *x, const float *w, const float *bias, float *y, unsigned rows, unsigned depth,
                                 unsigned columns, unsigned relu) {
    __shared__ float left[TILE][TILE], right[TILE][TILE + 1];
    unsigned row = blockIdx.y * TILE + threadIdx.y, column = blockIdx.x * TILE + threadIdx.x;
    float sum = column < columns ? bias[column] : 0.0f;
    for (unsigned from = 0; from < depth; from += TILE) {
        unsigned at = from + threadIdx.x, down = from + threadIdx.y;
        left[threadIdx.y][threadIdx.x] = row < rows && at < depth ? x[(unsigned long long)row * depth + at] : 0.0f;
        right[threadIdx.y][threadIdx.x] = down < depth && column < columns ? w[(unsigned long long)down * columns + column] : 0.0f;
        __syncthreads();
        for (unsigned k = 0; k < TILE; k++) sum += left[threadIdx.y][k] * right[k][threadIdx.x];
        __syncthreads();
    }
    if (row < rows && column < columns) y[(unsigned long long)row * columns + column] = relu && sum < 0.0f ? 0.0f : sum;
}

#define BLOCK 64
#define STEP 16

// y[m, n] = x[m, k] * w[k, n] for sizes that are multiples of 64, 64 and 16: what float32 arithmetic can do. Blocks of 256
// threads compute 64 x 64 elements, each thread 4 x 4.
extern "C" __global__ void matmul(const float *x, const float *w, float *y, unsigned m, unsigned n, unsigned k) {
    __shared__ float left[STEP][BLOCK], right[STEP][BLOCK];
    unsigned thread = threadIdx.x, row = blockIdx.y * BLOCK, column = blockIdx.x * BLOCK;
    unsigned down = thread / 16 * 4, across = thread % 16 * 4;
    float sums[4][4] = {};
    for (unsigned from = 0; from < k; from += STEP) {
        for (unsigned i = thread; i < STEP * BLOCK; i += 256) {
            left[i % STEP][i / STEP] = x[(unsigned long long)(row + i / STEP) * k + from + i % STEP];
            right[i / BLOCK][i % BLOCK] = w[(unsigned long long)(from + i / BLOCK) * n + column + i % BLOCK];
        }
        __syncthreads();
        for (unsigned step = 0; step < STEP; step++) {
            float a[4], b[4];
            for (unsigned i = 0; i < 4; i++) a[i] = left[step][down + i], b[i] = right[step][across + i];
            for (unsigned i = 0; i < 4; i++)
                for (unsigned j = 0; j < 4; j++) sums[i][j] += a[i] * b[j];
        }
        __syncthreads();
    }
    for (unsigned i = 0; i < 4; i++)
        for (unsigned j = 0; j < 4; j++) y[(unsigned long long)(row + down + i) * n + column + across + j] = sums[i][j];
}

// Writes where nothing is if flag is not 0: what a broken kernel does to a device.
extern "C" __global__ void crash(const float *x, float *y, unsigned count, unsigned flag) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (flag) y = (float *)(unsigned long long)(16 + 4 * i);
    if (i < count) y[i] = x[i];
}
