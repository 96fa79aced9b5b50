// Large code: functions that are all different, called in turns. How much code there is decides how fast it runs, here and on each monitor.
//
// The code is made when the workload begins, since a program of 64 MiB would take longer to load than to run. A function is six basic blocks: arithmetic on
// eight registers, loads and stores in half a page, and a conditional branch that always goes the same way, half of them taken. Sixteen functions, shuffled,
// are called directly by one caller, and the callers in turns through pointers.
#include "bench.h"
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum {
    FUNCTION = 192,             // bytes from one function to the next
    BLOCKS = 6, BODY = 5,       // of a function; instructions of a block but for its branch
    GROUP = 16,                 // functions that one caller calls
    CALLER = 96,
    GROUP_BYTES = GROUP * FUNCTION + CALLER,
    INSTRUCTIONS = FOOTPRINT_INSTRUCTIONS, // that one group executes
    WARM_PASSES = 32, WARM_SECONDS = 20,   // a translator counts before it translates, and what does not fit takes long each time
};

_Static_assert(GROUP_BYTES == FOOTPRINT_GROUP, "what bench.h says it takes");
_Static_assert(INSTRUCTIONS == GROUP * (1 + BLOCKS * (BODY + 2) + BLOCKS / 2 + 1) + 1, "what bench.h says is executed");

static uint8_t *code, *at;
static void **callers;
static size_t caller_count;
static uint8_t data[256] __attribute__((aligned(256)));
static uint64_t seed;

static uint32_t below(uint32_t n) { return (uint32_t)(next_random(&seed) >> 33) % n; }

#define EMIT(...) do { const uint8_t bytes_[] = { __VA_ARGS__ }; memcpy(at, bytes_, sizeof bytes_); at += sizeof bytes_; } while (0)

// RAX, RCX, RDX, RDI, R8 to R11; RSI points into the data, RBX says which way branches go.
static const uint8_t registers[] = { 0, 1, 2, 7, 8, 9, 10, 11 };

static uint8_t modrm(int mode, uint8_t reg, uint8_t rm) { return (uint8_t)(mode << 6 | (reg & 7) << 3 | (rm & 7)); }

static void instruction(void)
{
    uint8_t a = registers[below(8)], b = registers[below(8)];
    uint8_t rex = (uint8_t)(0x48 | (a >> 3) << 2 | b >> 3); // REX.W with R for the first, B for the second
    uint8_t rexb = (uint8_t)(0x48 | b >> 3), byte = (uint8_t)next_random(&seed), offset = (uint8_t)(below(32) * 8 - 128);
    switch (below(12)) {
    case 0: EMIT(rex, 0x01, modrm(3, a, b)); break;                       // ADD b, a
    case 1: EMIT(rex, 0x29, modrm(3, a, b)); break;                       // SUB b, a
    case 2: EMIT(rex, 0x31, modrm(3, a, b)); break;                       // XOR b, a
    case 3: EMIT(rex, 0x0F, 0xAF, modrm(3, a, b)); break;                 // IMUL a, b
    case 4: EMIT(rexb, 0xC1, modrm(3, 0, b), (uint8_t)(1 + byte % 63)); break; // ROL b, n
    case 5: EMIT(rexb, 0x83, modrm(3, 0, b), byte); break;                // ADD b, n
    case 6: EMIT(rexb, 0x83, modrm(3, 6, b), byte); break;                // XOR b, n
    case 7: EMIT(rexb, 0xF7, modrm(3, 2, b)); break;                      // NOT b
    case 8: EMIT((uint8_t)(0x48 | (a >> 3) << 2), 0x8B, modrm(1, a, 6), offset); break; // MOV a, [RSI+n]
    case 9: EMIT((uint8_t)(0x48 | (a >> 3) << 2), 0x89, modrm(1, a, 6), offset); break; // MOV [RSI+n], a
    case 10: EMIT((uint8_t)(0x48 | (a >> 3) << 2), 0x33, modrm(1, a, 6), offset); break; // XOR a, [RSI+n]
    default: EMIT((uint8_t)(rex | (a >> 3) << 1), 0x8D, modrm(0, a, 4), modrm(0, a, b)); break; // LEA a, [b + a]
    }
}

static void function(void)
{
    uint8_t taken = 0; // which branches are
    for (int n = 0; n < BLOCKS / 2;) {
        uint8_t bit = (uint8_t)(1 << below(BLOCKS));
        if (taken & bit) continue;
        taken |= bit;
        n++;
    }
    for (int block = 0; block < BLOCKS; block++) {
        for (int n = 0; n < BODY; n++) instruction();
        int one = (int)below(2), jumps = taken >> block & 1;
        EMIT(0xF6, 0xC3, one ? 1 : 2);                                   // TEST BL, 1 or 2: BL is 1
        EMIT((uint8_t)(0x74 | (one == jumps)), 4);                       // JZ, or JNZ, over
        EMIT(0x48, 0x83, 0xC0, (uint8_t)next_random(&seed));             // ADD RAX, n
    }
    EMIT(0xC3);
}

static void group(void)
{
    uint8_t *functions[GROUP];
    for (int n = 0; n < GROUP; n++) {
        uint8_t *start = functions[n] = at;
        function();
        if (at > start + FUNCTION) fail("a function is too long");
        at = start + FUNCTION;
    }
    uint8_t *start = at;
    callers[caller_count++] = start;
    for (int n = GROUP - 1; n > 0; n--) {
        uint32_t other = below((uint32_t)n + 1);
        uint8_t *f = functions[n];
        functions[n] = functions[other];
        functions[other] = f;
    }
    for (int n = 0; n < GROUP; n++) {
        int32_t distance = (int32_t)(functions[n] - (at + 5));
        *at++ = 0xE8;
        memcpy(at, &distance, 4);
        at += 4;
    }
    EMIT(0xC3);
    at = start + CALLER;
}

// Calls what `callers` point to, and returns RAX.
uint64_t footprint_call(void *const *callers, void *const *end, uint8_t *data);
__asm__(
    ".text\n"
    "footprint_call:\n"
    "    push %rbx\n    push %r12\n    push %r13\n"
    "    mov %rdi, %r12\n    mov %rsi, %r13\n    mov %rdx, %rsi\n    mov $1, %ebx\n"
    "    mov $1, %eax\n    mov $2, %ecx\n    mov $3, %edx\n    mov $5, %edi\n    mov $7, %r8d\n    mov $11, %r9d\n    mov $13, %r10d\n    mov $17, %r11d\n"
    "1:  call *(%r12)\n    add $8, %r12\n    cmp %r13, %r12\n    jne 1b\n"
    "    pop %r13\n    pop %r12\n    pop %rbx\n    ret\n");

static uint64_t pass(void)
{
    memset(data, 0x5A, sizeof data);
    uint64_t sum = footprint_call(callers, callers + caller_count, data + 128);
    for (size_t n = 0; n < sizeof data; n += 8) sum = mix(sum, *(uint64_t *)(data + n));
    return sum;
}

static void prepare(size_t bytes)
{
    size_t groups = bytes / GROUP_BYTES;
    seed = 88172645463325252u;
    code = at = allocate(bytes);
    callers = allocate(groups * sizeof *callers);
    caller_count = 0;
    while (caller_count < groups) group();
    if (mprotect(code, bytes, PROT_READ | PROT_EXEC) != 0) fail("no executable memory");
    time_t end = time(NULL) + WARM_SECONDS;
    for (int n = 0; n < WARM_PASSES && time(NULL) < end; n++) pass();
}

#define SIZE(name, bytes) \
    void footprint_##name##_prepare(void) { prepare(bytes); } \
    uint64_t footprint_##name##_unit(void) { return pass(); }
FOOTPRINTS(SIZE)
