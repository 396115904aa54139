// Convolution of stride 1 on bfloat16, channels last. Defined before: CIN, COUT (multiples of 64), H, W, KH, KW (odd), MB, STAGES,
// BIAS, RESIDUAL. Two warp groups compute 128 MB pixels times 64 output channels. The pixels that they see lie in shared memory once
// for all taps; weights come through a ring of STAGES blocks of 64 x 64.
#define ROWS (128 * MB)
#define WINDOW (ROWS + 2 * REACH)
#define CHUNKS (CIN / 64)
#define STEPS (CHUNKS * TAPS)
#define BLOCK 8192

extern "C" __global__ void __launch_bounds__(256, 2)
multiply(const uint4 *__restrict__ x, const char *__restrict__ weights, const float *__restrict__ bias,
         const uint4 *__restrict__ residual, uint4 *__restrict__ out, const Numbers numbers) {
    extern __shared__ __align__(1024) char shared[];
    const u32 ring = (shared_address(shared) + 1023) & ~1023u;
    const u32 window = ring + STAGES * BLOCK, zeros = window + CHUNKS * WINDOW * 128;
    const u32 full = zeros + 128, empty = full + 8 * STAGES;
    const int rows = (int)numbers.rows, thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
    const int first = blockIdx.x * ROWS;
    const char *blocks = weights + (u64)blockIdx.y * STEPS * BLOCK;

    if (thread == 0) {
        for (int s = 0; s < STAGES; s++) barrier_init(full + 8 * s, 1), barrier_init(empty + 8 * s, 8);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        for (int s = 0; s < (STAGES < STEPS ? STAGES : STEPS); s++) fetch(ring + s * BLOCK, blocks + s * BLOCK, BLOCK, full + 8 * s);
    }
    if (thread < 8) asm volatile("st.shared.v4.u32 [%0], {%1, %1, %1, %1};" ::"r"(zeros + 16 * thread), "r"(0) : "memory");
#pragma unroll 1
    for (int c = 0; c < CHUNKS; c++) {
#pragma unroll 4
        for (int i = thread; i < WINDOW * 8; i += 256) {
            int p = i >> 3, v = i & 7, row = first - REACH + p;
            bool inside = row >= 0 && row < rows;
            fetch16(window + (c * WINDOW + p) * 128 + ((v ^ (p & 7)) << 4), x + (inside ? row * (CIN / 8) + c * 8 + v : 0), inside);
        }
        fetch_commit();
    }

    // Each lane names one row of a fragment: a pixel, seen by a tap or not.
    int at[MB];
    u32 seen[MB];
    const int local = (warp >> 2) * (64 * MB) + (warp & 3) * 16 + (lane & 15);
#pragma unroll
    for (int m = 0; m < MB; m++) {
        at[m] = local + 64 * m + REACH;
        int row = first + local + 64 * m, right = row % W, down = (row / W) % H;
        seen[m] = 0;
#pragma unroll
        for (int t = 0; t < TAPS; t++) {
            int r = right + t % KW - KW / 2, d = down + t / KW - KH / 2;
            if (row < rows && r >= 0 && r < W && d >= 0 && d < H) seen[m] |= 1u << t;
        }
    }
    const u32 half = (lane >> 4) << 4;
    float sums[MB][32];
#pragma unroll
    for (int m = 0; m < MB; m++)
#pragma unroll
        for (int i = 0; i < 32; i++) sums[m][i] = 0;

    int step = 0, stage = 0, phase = 0;
    int behind = 0, behind_phase = 0;
#pragma unroll 1
    for (int c = 0; c < CHUNKS; c++) {
        if (CHUNKS > 1 && c == 0) fetch_wait<CHUNKS - 1>(); else fetch_wait<0>();
        __syncthreads();
        const u32 part = window + c * WINDOW * 128;
#pragma unroll
        for (int t = 0; t < TAPS; t++) {
            // What all warps used two steps ago takes new weights.
            if (thread == 0 && step >= 2 && step - 2 + STAGES < STEPS) {
                barrier_wait(empty + 8 * behind, behind_phase);
                fetch(ring + behind * BLOCK, blocks + (step - 2 + STAGES) * BLOCK, BLOCK, full + 8 * behind);
            }
            if (step >= 2 && ++behind == STAGES) behind = 0, behind_phase ^= 1;
            u32 a[MB][4][4];
#pragma unroll
            for (int m = 0; m < MB; m++) {
                const int p = at[m] + (t / KW - KH / 2) * W + t % KW - KW / 2;
                const bool hit = seen[m] >> t & 1;
                const u32 row = hit ? part + p * 128 : zeros, swizzle = hit ? (p & 7) << 4 : 0;
#pragma unroll
                for (int k = 0; k < 4; k++) load_matrices(a[m][k], row + ((k * 32 + half) ^ swizzle));
            }
            barrier_wait(full + 8 * stage, phase);
            const u64 b = tile(ring + stage * BLOCK);
            products_begin();
#pragma unroll
            for (int k = 0; k < 4; k++)
#pragma unroll
                for (int m = 0; m < MB; m++) product<0>(sums[m], a[m][k], b + 2 * k);
            products_commit();
            products_wait<0>();
            if (lane == 0) barrier_arrive(empty + 8 * stage);
            if (++stage == STAGES) stage = 0, phase ^= 1;
            step++;
        }
    }

    // Four threads hold a row's pairs of columns; exchanged, each has eight columns in a row.
    const int q = lane & 3, column = blockIdx.y * 64 + q * 8;
#pragma unroll
    for (int g = 0; g < 2; g++) {
        float add[8];
        if (BIAS) {
            const float4 *from = (const float4 *)(bias + column + g * 32);
            float4 one = from[0], two = from[1];
            add[0] = one.x, add[1] = one.y, add[2] = one.z, add[3] = one.w, add[4] = two.x, add[5] = two.y, add[6] = two.z, add[7] = two.w;
        }
#pragma unroll
        for (int m = 0; m < MB; m++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const int row = first + (warp >> 2) * (64 * MB) + 64 * m + (warp & 3) * 16 + (lane >> 2) + 8 * h;
                float *d = sums[m] + g * 16 + h * 2, v[8];
#pragma unroll
                for (int e = 0; e < 2; e++) exchange(d[e], d[4 + e], d[8 + e], d[12 + e], q);
#pragma unroll
                for (int k = 0; k < 4; k++)
#pragma unroll
                    for (int e = 0; e < 2; e++) v[2 * k + e] = d[4 * k + e] + (BIAS ? add[2 * k + e] : 0.0f);
                if (row < rows) {
                    const int index = (row * COUT + column + g * 32) / 8;
                    if (RESIDUAL) {
                        uint4 r = residual[index];
                        v[0] += low(r.x), v[1] += high(r.x), v[2] += low(r.y), v[3] += high(r.y);
                        v[4] += low(r.z), v[5] += high(r.z), v[6] += low(r.w), v[7] += high(r.w);
                    }
                    out[index] = make_uint4(pack(v[0], v[1]), pack(v[2], v[3]), pack(v[4], v[5]), pack(v[6], v[7]));
                }
            }
    }
}
