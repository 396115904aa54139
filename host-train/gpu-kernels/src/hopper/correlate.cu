// Gradient of the weights and the bias of a convolution of stride 1 on bfloat16, channels last. Defined before: CIN, COUT (multiples
// of 64), H, W, KH, KW (odd), RING (a power of two). A warp group a row of taps; a block sums 64 x 64 channels over its pixels. x lies
// in a ring of RING pixels, dy in one of four steps.
#define PIXELS 64
#define STEP_BYTES (PIXELS * 128)
#define THREADS (128 * KH)

extern "C" __global__ void __launch_bounds__(THREADS, 1)
correlate(const uint4 *__restrict__ x, const uint4 *__restrict__ dy, float *__restrict__ parts, const Numbers numbers) {
    extern __shared__ __align__(1024) char shared[];
    const u32 grads = (shared_address(shared) + 1023) & ~1023u, ring = grads + 4 * STEP_BYTES, zeros = ring + RING * 128;
    const int rows = (int)numbers.rows, steps_each = (int)numbers.steps;
    const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5 & 3, tap_row = thread >> 7;
    const int begin = blockIdx.z * steps_each * PIXELS;
    const int end = min(rows, begin + steps_each * PIXELS), steps = (end - begin + PIXELS - 1) / PIXELS;

    // Pixels of x from `from` to `to`, counted from `begin`, and a step of dy.
    auto fetch_pixels = [&](int from, int to, int step) {
        for (int i = from * 8 + thread; i < to * 8; i += THREADS) {
            int p = i >> 3, v = i & 7, row = begin + p, slot = (p + REACH) & (RING - 1);
            bool inside = row >= 0 && row < rows;
            fetch16(ring + slot * 128 + ((v ^ (slot & 7)) << 4), x + (inside ? row * (CIN / 8) + (int)blockIdx.x * 8 + v : 0), inside);
        }
        const u32 to_step = grads + (step & 3) * STEP_BYTES;
        for (int i = thread; i < PIXELS * 8; i += THREADS) {
            int p = i >> 3, v = i & 7, row = begin + step * PIXELS + p;
            bool inside = row < end;
            fetch16(to_step + p * 128 + ((v ^ (p & 7)) << 4), dy + (inside ? row * (COUT / 8) + (int)blockIdx.y * 8 + v : 0), inside);
        }
    };
    if (thread < 8) asm volatile("st.shared.v4.u32 [%0], {%1, %1, %1, %1};" ::"r"(zeros + 16 * thread), "r"(0) : "memory");
    fetch_pixels(-REACH, PIXELS + REACH, 0);
    fetch_commit();
    if (steps > 1) fetch_pixels(PIXELS + REACH, 2 * PIXELS + REACH, 1);
    fetch_commit();

    float sums[KW][32];
#pragma unroll
    for (int t = 0; t < KW; t++)
#pragma unroll
        for (int i = 0; i < 32; i++) sums[t][i] = 0;
    float bias0 = 0, bias1 = 0;
    // A lane names a pixel and eight channels of a fragment.
    const int mine = (lane >> 4 << 3) + (lane & 7), vector = (2 * warp + (lane >> 3 & 1)) << 4;
    u32 a[2][KW][4];
#pragma unroll 1
    for (int step = 0; step < steps; step++) {
        fetch_wait<1>();
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        __syncthreads();
        if (step + 2 < steps) fetch_pixels((step + 2) * PIXELS + REACH, (step + 3) * PIXELS + REACH, step + 2);
        fetch_commit();
        const u32 grad = grads + (step & 3) * STEP_BYTES;
        const u64 b = tile(grad);
#pragma unroll
        for (int k = 0; k < PIXELS / 16; k++) {
            const int p = step * PIXELS + k * 16 + mine, row = begin + p;
            const int right = row % W, down = (row / W) % H + tap_row - KH / 2;
            const bool line = row < end && down >= 0 && down < H;
#pragma unroll
            for (int t = 0; t < KW; t++) {
                const int at = right + t - KW / 2, slot = (p + REACH + (tap_row - KH / 2) * W + t - KW / 2) & (RING - 1);
                const bool hit = line && at >= 0 && at < W;
                load_matrices_transposed(a[k & 1][t], hit ? ring + slot * 128 + (vector ^ ((slot & 7) << 4)) : zeros + vector);
            }
            products_begin();
#pragma unroll
            for (int t = 0; t < KW; t++) product<1>(sums[t], a[k & 1][t], b + k * (16 * 128 >> 4));
            products_commit();
            if (k + 1 < PIXELS / 16) products_wait<1>(); else products_wait<0>();
        }
        if (blockIdx.x == 0 && thread < 128) {
            // Two columns of a quarter of the pixels.
#pragma unroll
            for (int i = 0; i < PIXELS / 4; i++) {
                const int p = warp * (PIXELS / 4) + i;
                u32 pair;
                asm volatile("ld.shared.u32 %0, [%1];" : "=r"(pair) : "r"(grad + p * 128 + ((((lane >> 2) ^ (p & 7)) << 4) | (lane & 3) << 2)) : "memory");
                bias0 += low(pair), bias1 += high(pair);
            }
        }
    }

    float *part = parts + (u64)blockIdx.z * ((KH * KW * CIN + 1) * COUT) + blockIdx.y * 64;
#pragma unroll
    for (int t = 0; t < KW; t++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float *row = part + ((tap_row * KW + t) * CIN + blockIdx.x * 64 + warp * 16 + (lane >> 2) + 8 * h) * COUT + (lane & 3) * 2;
#pragma unroll
            for (int j = 0; j < 8; j++) *(float2 *)(row + 8 * j) = make_float2(sums[t][4 * j + 2 * h], sums[t][4 * j + 2 * h + 1]);
        }
    if (blockIdx.x == 0) {
        __syncthreads();
        float *columns = (float *)(shared + (grads - shared_address(shared)));
        if (thread < 128) columns[warp * 64 + 2 * lane] = bias0, columns[warp * 64 + 2 * lane + 1] = bias1;
        __syncthreads();
        if (thread < 64) part[KH * KW * CIN * COUT + thread] = columns[thread] + columns[64 + thread] + columns[128 + thread] + columns[192 + thread];
    }
}
