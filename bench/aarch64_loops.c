/* A row of weights times an activation row, one function per format, written the obvious way: what a C compiler makes of
   it is what bench.aarch64 puts next to our loops. Layouts: see rwkv_edge/quant. Activations are bytes as in the backend:
   scales: of each 32.  sums: of each group's bytes, times the scale, for the weights' offsets. Loops of known length
   within a block are unrolled, so that a block is one loop body, whose instructions can be counted. */
#include <stdint.h>
#include <string.h>

#define UNROLL _Pragma("GCC unroll 16")
#define WHOLE _Pragma("GCC unroll 1")
#define BLOCKS(bytes, size) for (const uint8_t *end = w + n / size * bytes; w < end; w += bytes, x += size)

int8_t iq4_levels[16], iq3_xxs_grid[256][4], iq3_s_grid[512][4];
uint8_t even_signs[128];

static inline float half(const uint8_t *p) {
    _Float16 h;
    memcpy(&h, p, 2);
    return (float)h;
}

static inline uint32_t word(const uint8_t *p) {
    uint32_t x;
    memcpy(&x, p, 4);
    return x;
}

float dot_f32(const float *w, const float *x, long n) {
    float sum = 0;
    for (long i = 0; i < n; i++) sum += w[i] * x[i];
    return sum;
}

float dot_f16(const _Float16 *w, const float *x, long n) {
    float sum = 0;
    for (long i = 0; i < n; i++) sum += (float)w[i] * x[i];
    return sum;
}

float dot_bf16(const uint16_t *w, const float *x, long n) {
    float sum = 0;
    for (long i = 0; i < n; i++) {
        uint32_t bits = (uint32_t)w[i] << 16;
        float weight;
        memcpy(&weight, &bits, 4);
        sum += weight * x[i];
    }
    return sum;
}

float dot_q8_0(const uint8_t *w, const int8_t *x, const float *scales, const float *sums, long n) {
    float sum = 0;
    BLOCKS(34, 32) {
        const int8_t *q = (const int8_t *)w + 2;
        int s = 0;
        WHOLE for (int i = 0; i < 32; i++) s += q[i] * x[i];
        sum += half(w) * *scales++ * s;
    }
    return sum;
}

float dot_q4_0(const uint8_t *w, const int8_t *x, const float *scales, const float *sums, long n) {
    float sum = 0;
    BLOCKS(18, 32) {
        int s = 0;
        WHOLE for (int i = 0; i < 16; i++) {
            int8_t low = (w[2 + i] & 15) - 8, high = (w[2 + i] >> 4) - 8;
            s += low * x[i] + high * x[16 + i];
        }
        sum += half(w) * *scales++ * s;
    }
    return sum;
}

float dot_q4_1(const uint8_t *w, const int8_t *x, const float *scales, const float *sums, long n) {
    float sum = 0;
    BLOCKS(20, 32) {
        int s = 0;
        WHOLE for (int i = 0; i < 16; i++) {
            int8_t low = w[4 + i] & 15, high = w[4 + i] >> 4;
            s += low * x[i] + high * x[16 + i];
        }
        sum += half(w) * *scales++ * s + half(w + 2) * *sums++;
    }
    return sum;
}

float dot_q5_0(const uint8_t *w, const int8_t *x, const float *scales, const float *sums, long n) {
    float sum = 0;
    BLOCKS(22, 32) {
        uint32_t fifth = word(w + 2);
        int s = 0;
        WHOLE for (int i = 0; i < 16; i++) {
            int8_t low = (w[6 + i] & 15 | (fifth >> i & 1) << 4) - 16, high = (w[6 + i] >> 4 | (fifth >> (16 + i) & 1) << 4) - 16;
            s += low * x[i] + high * x[16 + i];
        }
        sum += half(w) * *scales++ * s;
    }
    return sum;
}

float dot_q5_1(const uint8_t *w, const int8_t *x, const float *scales, const float *sums, long n) {
    float sum = 0;
    BLOCKS(24, 32) {
        uint32_t fifth = word(w + 4);
        int s = 0;
        WHOLE for (int i = 0; i < 16; i++) {
            int8_t low = w[8 + i] & 15 | (fifth >> i & 1) << 4, high = w[8 + i] >> 4 | (fifth >> (16 + i) & 1) << 4;
            s += low * x[i] + high * x[16 + i];
        }
        sum += half(w) * *scales++ * s + half(w + 2) * *sums++;
    }
    return sum;
}

float dot_q2_k(const uint8_t *w, const int8_t *x, const float *scales, const float *sums, long n) {
    float sum = 0;
    BLOCKS(84, 256) {
        float d = half(w + 80), m = half(w + 82);
        UNROLL for (int group = 0; group < 16; group++) {
            const uint8_t *q = w + 16 + group / 8 * 32 + group % 2 * 16;
            int s = 0;
            WHOLE for (int i = 0; i < 16; i++) s += (int8_t)(q[i] >> group / 2 % 4 * 2 & 3) * x[16 * group + i];
            sum += d * (w[group] & 15) * scales[group / 2] * s - m * (w[group] >> 4) * sums[group];
        }
        scales += 8, sums += 16;
    }
    return sum;
}

float dot_q3_k(const uint8_t *w, const int8_t *x, const float *scales, const float *sums, long n) {
    float sum = 0;
    BLOCKS(110, 256) {
        float d = half(w + 108);
        UNROLL for (int group = 0; group < 16; group++) {
            const uint8_t *high = w + group % 2 * 16, *q = w + 32 + group / 8 * 32 + group % 2 * 16;
            int scale = (w[96 + group % 8] >> group / 8 * 4 & 15 | (w[104 + group % 4] >> group / 4 * 2 & 3) << 4) - 32;
            int s = 0;
            WHOLE for (int i = 0; i < 16; i++) {
                int8_t code = (q[i] >> group / 2 % 4 * 2 & 3 | (high[i] >> group / 2 & 1) << 2) - 4;
                s += code * x[16 * group + i];
            }
            sum += d * scale * scales[group / 2] * s;
        }
        scales += 8;
    }
    return sum;
}

static inline void six_bit_pair(const uint8_t *p, int run, int *scale, int *offset) {
    *scale = run < 4 ? p[run] & 63 : p[run + 4] & 15 | p[run - 4] >> 6 << 4;
    *offset = run < 4 ? p[run + 4] & 63 : p[run + 4] >> 4 | p[run] >> 6 << 4;
}

float dot_q4_k(const uint8_t *w, const int8_t *x, const float *scales, const float *sums, long n) {
    float sum = 0;
    BLOCKS(144, 256) {
        float d = half(w), m = half(w + 2);
        UNROLL for (int run = 0; run < 8; run++) {
            const uint8_t *q = w + 16 + run / 2 * 32;
            int scale, offset, s = 0;
            six_bit_pair(w + 4, run, &scale, &offset);
            WHOLE for (int i = 0; i < 32; i++) s += (int8_t)(q[i] >> run % 2 * 4 & 15) * x[32 * run + i];
            sum += d * scale * scales[run] * s - m * offset * sums[run];
        }
        scales += 8, sums += 8;
    }
    return sum;
}

float dot_q5_k(const uint8_t *w, const int8_t *x, const float *scales, const float *sums, long n) {
    float sum = 0;
    BLOCKS(176, 256) {
        float d = half(w), m = half(w + 2);
        UNROLL for (int run = 0; run < 8; run++) {
            const uint8_t *q = w + 48 + run / 2 * 32;
            int scale, offset, s = 0;
            six_bit_pair(w + 4, run, &scale, &offset);
            WHOLE for (int i = 0; i < 32; i++) {
                int8_t code = q[i] >> run % 2 * 4 & 15 | (w[16 + i] >> run & 1) << 4;
                s += code * x[32 * run + i];
            }
            sum += d * scale * scales[run] * s - m * offset * sums[run];
        }
        scales += 8, sums += 8;
    }
    return sum;
}

float dot_q6_k(const uint8_t *w, const int8_t *x, const float *scales, const float *sums, long n) {
    float sum = 0;
    BLOCKS(210, 256) {
        float d = half(w + 208);
        UNROLL for (int group = 0; group < 16; group++) {
            const uint8_t *q = w + group / 8 * 64 + group % 4 * 16, *high = w + 128 + group / 8 * 32 + group % 2 * 16;
            int s = 0;
            WHOLE for (int i = 0; i < 16; i++) {
                int8_t code = (q[i] >> group / 4 % 2 * 4 & 15 | (high[i] >> group / 2 % 4 * 2 & 3) << 4) - 32;
                s += code * x[16 * group + i];
            }
            sum += d * (int8_t)w[192 + group] * scales[group / 2] * s;
        }
        scales += 8;
    }
    return sum;
}

float dot_iq4_nl(const uint8_t *w, const int8_t *x, const float *scales, const float *sums, long n) {
    float sum = 0;
    BLOCKS(18, 32) {
        int s = 0;
        UNROLL for (int i = 0; i < 16; i++) s += iq4_levels[w[2 + i] & 15] * x[i] + iq4_levels[w[2 + i] >> 4] * x[16 + i];
        sum += half(w) * *scales++ * s;
    }
    return sum;
}

float dot_iq4_xs(const uint8_t *w, const int8_t *x, const float *scales, const float *sums, long n) {
    float sum = 0;
    BLOCKS(136, 256) {
        float d = half(w);
        uint32_t high = word(w + 2) & 0xffff;
        UNROLL for (int run = 0; run < 8; run++) {
            const uint8_t *q = w + 8 + 16 * run;
            const int8_t *y = x + 32 * run;
            int scale = (w[4 + run / 2] >> run % 2 * 4 & 15 | (high >> 2 * run & 3) << 4) - 32, s = 0;
            UNROLL for (int i = 0; i < 16; i++) s += iq4_levels[q[i] & 15] * y[i] + iq4_levels[q[i] >> 4] * y[16 + i];
            sum += d * scale * scales[run] * s;
        }
        scales += 8;
    }
    return sum;
}

static inline int signed_products(const int8_t *magnitudes, int signs, const int8_t *x) {
    int s = 0;
    UNROLL for (int i = 0; i < 4; i++) s += (signs >> i & 1 ? -magnitudes[i] : magnitudes[i]) * x[i];
    return s;
}

float dot_iq3_xxs(const uint8_t *w, const int8_t *x, const float *scales, const float *sums, long n) {
    float sum = 0;
    BLOCKS(98, 256) {
        float d = half(w);
        UNROLL for (int run = 0; run < 8; run++) {
            uint32_t last = word(w + 66 + 4 * run);
            int s = 0;
            UNROLL for (int i = 0; i < 8; i++) {
                int signs = even_signs[last >> i / 2 * 7 & 127] >> i % 2 * 4;
                s += signed_products(iq3_xxs_grid[w[2 + 8 * run + i]], signs, x + 32 * run + 4 * i);
            }
            sum += d * (0.5f + (last >> 28)) * 0.5f * scales[run] * s;
        }
        scales += 8;
    }
    return sum;
}

float dot_iq3_s(const uint8_t *w, const int8_t *x, const float *scales, const float *sums, long n) {
    float sum = 0;
    BLOCKS(110, 256) {
        float d = half(w);
        UNROLL for (int run = 0; run < 8; run++) {
            int scale = 2 * (w[106 + run / 2] >> run % 2 * 4 & 15) + 1, s = 0;
            UNROLL for (int i = 0; i < 8; i++) {
                int code = w[2 + 8 * run + i] | (w[66 + run] >> i & 1) << 8, signs = w[74 + 4 * run + i / 2] >> i % 2 * 4;
                s += signed_products(iq3_s_grid[code], signs, x + 32 * run + 4 * i);
            }
            sum += d * scale * scales[run] * s;
        }
        scales += 8;
    }
    return sum;
}
