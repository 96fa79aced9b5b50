// Calls, returns, and branches whose target is data.
#include "bench.h"

// No inlining and no turning of recursion into loops, or little would be called.
#define CALLED __attribute__((noinline, noclone, noipa, optimize("no-optimize-sibling-calls")))

static CALLED uint64_t fib(uint64_t n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }

static CALLED uint64_t ackermann(uint64_t m, uint64_t n)
{
    if (m == 0) return n + 1;
    if (n == 0) return ackermann(m - 1, 1);
    return ackermann(m - 1, ackermann(m, n - 1));
}

uint64_t fib_unit(void) { return fib(OPAQUE(20ul)); }
uint64_t ackermann_unit(void) { return ackermann(OPAQUE(2ul), OPAQUE(60ul)); }

static CALLED uint64_t f0(uint64_t x) { return x + 1; }
static CALLED uint64_t f1(uint64_t x) { return x ^ x >> 7; }
static CALLED uint64_t f2(uint64_t x) { return x * 5; }
static CALLED uint64_t f3(uint64_t x) { return x - (x >> 3); }
static CALLED uint64_t f4(uint64_t x) { return ~x; }
static CALLED uint64_t f5(uint64_t x) { return x << 1 | x >> 63; }
static CALLED uint64_t f6(uint64_t x) { return x + (x << 4); }
static CALLED uint64_t f7(uint64_t x) { return x ^ 0x55; }
typedef uint64_t step(uint64_t);
static step *const steps[] = { f0, f1, f2, f3, f4, f5, f6, f7 };

enum { SEQUENCE = 8192 };
static uint8_t *sequence;

void calls_prepare(void)
{
    uint64_t random = 88172645463325252u;
    sequence = allocate(SEQUENCE);
    for (int i = 0; i < SEQUENCE; i++) sequence[i] = (uint8_t)(next_random(&random) >> 30);
}

uint64_t indirect_unit(void)
{
    uint64_t x = OPAQUE(1ul);
    for (int i = 0; i < SEQUENCE; i++) x = steps[sequence[i] & 7](x);
    return x;
}

uint64_t switch_unit(void)
{
    uint64_t x = OPAQUE(1ul);
    for (int i = 0; i < SEQUENCE; i++) {
        switch (sequence[i] & 15) {
        case 0: x += 3; break;
        case 1: x ^= x >> 9; break;
        case 2: x *= 7; break;
        case 3: x -= x >> 5; break;
        case 4: x = ~x; break;
        case 5: x = x << 3 | x >> 61; break;
        case 6: x += x << 2; break;
        case 7: x ^= 0xAA; break;
        case 8: x += (uint64_t)i; break;
        case 9: x = -x; break;
        case 10: x |= 0x100; break;
        case 11: x &= ~0x10ul; break;
        case 12: x = x >> 1 | x << 63; break;
        case 13: x *= 3; break;
        case 14: x ^= x << 11; break;
        default: x = __builtin_bswap64(x); break;
        }
        TOUCH(0);
    }
    return x;
}
