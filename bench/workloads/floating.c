// Floating point: scalar SSE2, x87, and vectors. Compiled without contraction, so that each machine rounds the same operations.
#include "bench.h"
#include <immintrin.h>

enum { N = 48 };
static double *a, *b, *c;

void matrix_prepare(void)
{
    a = allocate(N * N * sizeof *a + 32);
    b = allocate(N * N * sizeof *b + 32);
    c = allocate(N * N * sizeof *c + 32);
    for (int i = 0; i < N * N; i++) {
        a[i] = 1.0 + (i * 37 % 101) / 64.0;
        b[i] = 0.5 - (i * 53 % 97) / 128.0;
    }
}

static uint64_t matrix_sum(void)
{
    uint64_t sum = 0;
    for (int i = 0; i < N * N; i += 7) sum = mix(sum, bits(c[i]));
    return sum;
}

uint64_t matrix_unit(void)
{
    for (int i = 0; i < N; i++) {
        for (int j = 0; j < N; j++) {
            double s = 0;
            for (int k = 0; k < N; k++) s += a[i * N + k] * b[k * N + j];
            c[i * N + j] = s;
        }
    }
    return matrix_sum();
}

__attribute__((target("avx2,fma"))) uint64_t avx2_matrix_unit(void)
{
    for (int i = 0; i < N; i++) {
        for (int j = 0; j < N; j += 8) {
            __m256d low = _mm256_setzero_pd(), high = _mm256_setzero_pd();
            for (int k = 0; k < N; k++) {
                __m256d x = _mm256_broadcast_sd(&a[i * N + k]);
                low = _mm256_fmadd_pd(x, _mm256_loadu_pd(&b[k * N + j]), low);
                high = _mm256_fmadd_pd(x, _mm256_loadu_pd(&b[k * N + j + 4]), high);
            }
            _mm256_storeu_pd(&c[i * N + j], low);
            _mm256_storeu_pd(&c[i * N + j + 4], high);
        }
    }
    return matrix_sum();
}

// Newton's iteration beside the processor's own square root, and continued fractions.
uint64_t divide_unit(void)
{
    double total = 0;
    for (int i = 1; i <= 2000; i++) {
        double x = i, guess = x / 2 + 0.5;
        for (int n = 0; n < 4; n++) guess = (guess + x / guess) / 2;
        double root;
        __asm__("sqrtsd %1, %0" : "=x"(root) : "x"(x));
        total += (guess - root) + 1 / (1 + root);
    }
    return bits(total);
}

// Three bodies, a few hundred steps: multiplications and additions that wait for each other.
uint64_t nbody_unit(void)
{
    double p[3][3] = { { 0, 0, 0 }, { 1, 0, 0.1 }, { 0, 1.5, -0.2 } }, v[3][3] = { { 0, 0, 0 }, { 0, 1, 0 }, { -0.8, 0, 0.1 } };
    const double mass[3] = { 1, 0.001, 0.002 }, dt = 0.01;
    for (int step = 0; step < 500; step++) {
        for (int i = 0; i < 3; i++) {
            for (int j = i + 1; j < 3; j++) {
                double d[3], square = 0.001;
                for (int k = 0; k < 3; k++) {
                    d[k] = p[i][k] - p[j][k];
                    square += d[k] * d[k];
                }
                double root;
                __asm__("sqrtsd %1, %0" : "=x"(root) : "x"(square));
                double magnitude = dt / (square * root);
                for (int k = 0; k < 3; k++) {
                    v[i][k] -= d[k] * mass[j] * magnitude;
                    v[j][k] += d[k] * mass[i] * magnitude;
                }
            }
        }
        for (int i = 0; i < 3; i++) {
            for (int k = 0; k < 3; k++) p[i][k] += dt * v[i][k];
        }
        TOUCH(p);
    }
    uint64_t sum = 0;
    for (int i = 0; i < 3; i++) {
        for (int k = 0; k < 3; k++) sum = mix(sum, bits(p[i][k]));
    }
    return sum;
}

uint64_t x87_unit(void)
{
    volatile long double one = 1;
    long double pi = 0, root = 2, scale = one;
    for (int i = 0; i < 4000; i++) {
        long double k = i * 2 + 1;
        pi += (i & 1 ? -4 * scale : 4 * scale) / k;
        root = (root + (k + 1) / root) / 2;
        long double r;
        __asm__("fsqrt" : "=t"(r) : "0"(root * k));
        root += r * 0.25L;
    }
    union { long double x; uint64_t u[2]; } x = { pi }, y = { root };
    return mix(mix(x.u[0], x.u[1] & 0xFFFF), mix(y.u[0], y.u[1] & 0xFFFF));
}

enum { VECTOR = 4096 };
static float *xs, *ys;
static uint8_t *us, *vs;

void vectors_prepare(void)
{
    uint64_t random = 88172645463325252u;
    xs = allocate(VECTOR * sizeof *xs);
    ys = allocate(VECTOR * sizeof *ys);
    us = allocate(VECTOR * 4);
    vs = allocate(VECTOR * 4);
    for (int i = 0; i < VECTOR; i++) {
        xs[i] = 1 + (float)(i % 113) / 16;
        ys[i] = 2 - (float)(i % 71) / 32;
    }
    for (int i = 0; i < VECTOR * 4; i++) {
        us[i] = (uint8_t)(next_random(&random) >> 17);
        vs[i] = (uint8_t)(next_random(&random) >> 23);
    }
}

// Single precision in SSE2 registers: a·x + y, dot product, square root, minimum, shuffles.
uint64_t sse_unit(void)
{
    __m128 sum = _mm_setzero_ps(), factor = _mm_set1_ps(OPAQUE(3) * 0.25f);
    for (int i = 0; i < 8 * VECTOR; i += 4) {
        __m128 x = _mm_loadu_ps(xs + i % VECTOR), y = _mm_loadu_ps(ys + i % VECTOR);
        __m128 z = _mm_add_ps(_mm_mul_ps(x, factor), y);
        sum = _mm_add_ps(_mm_mul_ps(z, _mm_shuffle_ps(y, y, 0x1B)), sum);
        sum = _mm_min_ps(_mm_add_ps(sum, _mm_sqrt_ps(x)), _mm_set1_ps(1e6f));
    }
    union { __m128 v; uint32_t u[4]; } r = { sum };
    return mix(mix(r.u[0], r.u[1]), mix(r.u[2], r.u[3]));
}

// Bytes in AVX2 registers: sums of differences, saturation, byte shuffles, multiply-add, comparisons.
__attribute__((target("avx2"))) uint64_t avx2_integer_unit(void)
{
    __m256i differences = _mm256_setzero_si256(), products = _mm256_setzero_si256(), counts = _mm256_setzero_si256();
    const __m256i order = _mm256_setr_epi8(3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12, 3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12);
    for (int i = 0; i < 32 * VECTOR; i += 32) {
        __m256i u = _mm256_loadu_si256((const __m256i *)(us + i % (4 * VECTOR))), v = _mm256_loadu_si256((const __m256i *)(vs + i % (4 * VECTOR)));
        differences = _mm256_add_epi64(differences, _mm256_sad_epu8(u, v));
        __m256i w = _mm256_shuffle_epi8(_mm256_adds_epu8(u, _mm256_srli_epi16(v, 2)), order);
        products = _mm256_add_epi32(products, _mm256_madd_epi16(_mm256_unpacklo_epi8(w, v), _mm256_unpackhi_epi8(u, w)));
        counts = _mm256_sub_epi8(counts, _mm256_cmpgt_epi8(u, v));
    }
    union { __m256i v; uint64_t u[4]; } d = { differences }, p = { products }, n = { counts };
    uint64_t sum = 0;
    for (int i = 0; i < 4; i++) sum = mix(mix(mix(sum, d.u[i]), p.u[i]), n.u[i]);
    return sum;
}
