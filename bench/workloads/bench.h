// The guest's part of bench/compare: workloads that check themselves, and the runner that repeats them (main.c).
#pragma once
#include <stdint.h>
#include <stddef.h>

// A fixed amount of work. Returns a checksum that depends on everything it computed and is the same for each call and on each machine.
typedef uint64_t unit_fn(void);

struct workload {
    const char *name;
    const char *group;       // "integer", "float", "simd" (these three are compute), "os", "paging" or "footprint"
    const char *operation;   // what is counted, in the singular
    uint64_t operations;     // operations in one unit
    unit_fn *unit;
    void (*prepare)(void);   // outside the measurement; may be null
    const char *needs;       // CPU features, "avx2" for AVX2 with FMA, or null
};

// A value that the compiler knows nothing about.
#define OPAQUE(x) ({ __typeof__(x) v_ = (x); __asm__ volatile("" : "+r"(v_)); v_; })

// The memory that `p` reaches is read and written here.
#define TOUCH(p) __asm__ volatile("" : : "r"(p) : "memory")

// Ends the workload with a line that says why.
__attribute__((noreturn, format(printf, 1, 2))) void fail(const char *format, ...);

// Zeroed memory that lasts until the workload's end.
void *allocate(size_t bytes);

static inline uint64_t mix(uint64_t sum, uint64_t value)
{
    sum = (sum ^ value) * 0x9E3779B97F4A7C15u;
    return sum ^ (sum >> 29);
}

static inline uint64_t bits(double value)
{
    union { double d; uint64_t u; } v = { value };
    return v.u;
}

// xorshift: a sequence that is the same everywhere.
static inline uint64_t next_random(uint64_t *state)
{
    uint64_t x = *state;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return *state = x;
}

unit_fn arithmetic_unit, branchy_unit, sieve_unit, sort_unit, chase_l1_unit, chase_memory_unit;
void sort_prepare(void), chase_l1_prepare(void), chase_memory_prepare(void);
unit_fn memcpy_unit, memset_unit, strlen_unit, rep_movs_unit, rep_stos_unit;
void memory_prepare(void);
unit_fn sha256_unit, lz_unit, hash_table_unit, bytecode_unit;
void sha256_prepare(void), lz_prepare(void), hash_table_prepare(void);
unit_fn fib_unit, ackermann_unit, indirect_unit, switch_unit;
void calls_prepare(void);
unit_fn matrix_unit, divide_unit, nbody_unit, x87_unit, sse_unit, avx2_matrix_unit, avx2_integer_unit;
void matrix_prepare(void), vectors_prepare(void);
unit_fn getppid_unit, read_unit, fault_unit, mmap_unit, fork_unit, exec_unit, pipe_unit, signal_unit, file_unit, churn_unit;
void pipe_prepare(void), signal_prepare(void), read_prepare(void);

// Sizes of hot code, and how many instructions each 3168 bytes of it execute.
#define FOOTPRINTS(F) \
    F(64k, 64ul << 10) F(128k, 128ul << 10) F(256k, 256ul << 10) F(512k, 512ul << 10) F(1m, 1ul << 20) F(2m, 2ul << 20) F(4m, 4ul << 20) \
    F(8m, 8ul << 20) F(16m, 16ul << 20) F(32m, 32ul << 20) F(64m, 64ul << 20)
#define FOOTPRINT_GROUP 3168
#define FOOTPRINT_INSTRUCTIONS 753
#define DECLARE_FOOTPRINT(name, bytes) unit_fn footprint_##name##_unit; void footprint_##name##_prepare(void);
FOOTPRINTS(DECLARE_FOOTPRINT)
