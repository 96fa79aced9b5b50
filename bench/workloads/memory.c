// Loops over blocks of memory, and the string instructions that do the same.
#include "bench.h"

enum { BLOCK = 32768 };
static uint8_t *from, *to;

void memory_prepare(void)
{
    uint64_t random = 88172645463325252u;
    from = allocate(BLOCK + 1);
    to = allocate(BLOCK + 64);
    for (int i = 0; i < BLOCK; i++) from[i] = (uint8_t)(next_random(&random) >> 20) | 1; // no zero: strlen finds the end
}

static uint64_t sampled(const uint8_t *block)
{
    uint64_t sum = 0;
    for (int i = 0; i < BLOCK; i += 509) sum = mix(sum, block[i]);
    return sum;
}

uint64_t memcpy_unit(void)
{
    uint64_t sum = 0;
    for (int round = 0; round < 8; round++) {
        const uint64_t *s = (const uint64_t *)from;
        uint64_t *d = (uint64_t *)to;
        for (int i = 0; i < BLOCK / 8; i++) {
            d[i] = s[i];
            TOUCH(0);
        }
        sum = mix(sum, sampled(to));
    }
    return sum;
}

uint64_t memset_unit(void)
{
    uint64_t sum = 0;
    for (int round = 0; round < 8; round++) {
        uint64_t *d = (uint64_t *)to, value = OPAQUE((uint64_t)(round + 1) * 0x0101010101010101u);
        for (int i = 0; i < BLOCK / 8; i++) {
            d[i] = value;
            TOUCH(0);
        }
        sum = mix(sum, sampled(to));
    }
    return sum;
}

uint64_t strlen_unit(void)
{
    uint64_t sum = 0;
    for (int round = 0; round < 4; round++) {
        const uint8_t *start = from + round * 64, *p = start;
        while (*p) {
            p++;
            TOUCH(p);
        }
        sum = mix(sum, (uint64_t)(p - start));
    }
    return sum;
}

uint64_t rep_movs_unit(void)
{
    uint64_t sum = 0;
    for (int round = 0; round < 32; round++) {
        const void *s = from;
        void *d = to + round; // mostly unaligned, as in life
        size_t n = BLOCK;
        __asm__ volatile("rep movsb" : "+S"(s), "+D"(d), "+c"(n) : : "memory");
        sum = mix(sum, sampled(to + round));
    }
    return sum;
}

uint64_t rep_stos_unit(void)
{
    uint64_t sum = 0;
    for (int round = 0; round < 32; round++) {
        void *d = to;
        size_t n = BLOCK / 8;
        __asm__ volatile("rep stosq" : "+D"(d), "+c"(n) : "a"((uint64_t)round * 0x0101010101010101u) : "memory");
        sum = mix(sum, sampled(to));
    }
    return sum;
}
