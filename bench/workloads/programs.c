// Small programs of the kind that people run: a hash, a compressor, a hash table, an interpreter.
#include "bench.h"

// SHA-256 (FIPS 180-4). The constants are the first 32 bits of the fractional parts of square and cube roots of the first primes.
static uint32_t round_constants[64], initial[8];
static uint8_t message[16384];

// floor(2^32 * root of n) modulo 2^32, by bisection in integers.
static uint32_t root_fraction(uint32_t n, int degree)
{
    unsigned __int128 low = 0, high = (unsigned __int128)1 << 37; // the roots are below 32
    while (high - low > 1) {
        unsigned __int128 middle = (low + high) / 2;
        // 2^(32 * degree) * n against middle^degree; the cube needs 111 bits
        unsigned __int128 power = degree == 2 ? middle * middle : middle * middle * middle;
        if (power <= (unsigned __int128)n << (32 * degree)) low = middle;
        else high = middle;
    }
    return (uint32_t)low;
}

static inline uint32_t rotated(uint32_t x, int n) { return x >> n | x << (32 - n); }

static void sha256(const uint8_t *data, size_t length, uint32_t digest[8]) // length: whole blocks, already padded
{
    for (int i = 0; i < 8; i++) digest[i] = initial[i];
    for (; length >= 64; data += 64, length -= 64) {
        uint32_t w[64], s[8];
        for (int i = 0; i < 16; i++) w[i] = (uint32_t)data[4 * i] << 24 | data[4 * i + 1] << 16 | data[4 * i + 2] << 8 | data[4 * i + 3];
        for (int i = 16; i < 64; i++) {
            uint32_t a = rotated(w[i - 15], 7) ^ rotated(w[i - 15], 18) ^ w[i - 15] >> 3;
            uint32_t b = rotated(w[i - 2], 17) ^ rotated(w[i - 2], 19) ^ w[i - 2] >> 10;
            w[i] = w[i - 16] + a + w[i - 7] + b;
        }
        for (int i = 0; i < 8; i++) s[i] = digest[i];
        for (int i = 0; i < 64; i++) {
            uint32_t e = rotated(s[4], 6) ^ rotated(s[4], 11) ^ rotated(s[4], 25), choice = (s[4] & s[5]) ^ (~s[4] & s[6]);
            uint32_t t1 = s[7] + e + choice + round_constants[i] + w[i];
            uint32_t a = rotated(s[0], 2) ^ rotated(s[0], 13) ^ rotated(s[0], 22), majority = (s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]);
            uint32_t t2 = a + majority;
            s[7] = s[6], s[6] = s[5], s[5] = s[4], s[4] = s[3] + t1, s[3] = s[2], s[2] = s[1], s[1] = s[0], s[0] = t1 + t2;
        }
        for (int i = 0; i < 8; i++) digest[i] += s[i];
    }
}

void sha256_prepare(void)
{
    uint64_t random = 88172645463325252u;
    for (uint32_t prime = 2, found = 0; found < 64; prime++) {
        uint32_t divisor = 2;
        while (divisor * divisor <= prime && prime % divisor != 0) divisor++;
        if (divisor * divisor <= prime) continue;
        if (found < 8) initial[found] = root_fraction(prime, 2);
        round_constants[found++] = root_fraction(prime, 3);
    }
    // FIPS 180-4's own example: the digest of "abc" begins with BA7816BF 8F01CFEA.
    uint8_t block[64] = { 'a', 'b', 'c', 0x80, [63] = 24 };
    uint32_t digest[8];
    sha256(block, sizeof block, digest);
    if (digest[0] != 0xBA7816BF || digest[1] != 0x8F01CFEA) fail("SHA-256 of \"abc\" is wrong: %08X %08X", digest[0], digest[1]);
    for (size_t i = 0; i < sizeof message; i++) message[i] = (uint8_t)next_random(&random);
}

uint64_t sha256_unit(void)
{
    uint32_t digest[8];
    sha256(message, sizeof message, digest);
    uint64_t sum = 0;
    for (int i = 0; i < 8; i++) sum = mix(sum, digest[i]);
    return sum;
}

// A byte-oriented compressor: a token is either a count of literal bytes, or a length and distance into what came before.
enum { TEXT = 16384, HASH_BITS = 12, LONGEST = 127 + 4 };
static uint8_t text[TEXT + 8], packed[2 * TEXT], unpacked[TEXT + 8];

void lz_prepare(void)
{
    static const char *words[] = { "the ", "puppet ", "moves ", "when ", "nobody ", "looks ", "at ", "hands ", "behind ", "it, ", "and ", "theatre " };
    uint64_t random = 88172645463325252u;
    for (size_t n = 0; n < TEXT;) {
        const char *word = words[next_random(&random) % 12];
        while (*word && n < TEXT) text[n++] = (uint8_t)*word++;
        if (n < TEXT && next_random(&random) % 5 == 0) text[n++] = (uint8_t)('0' + next_random(&random) % 10);
    }
}

static uint32_t four(const uint8_t *p)
{
    uint32_t value;
    __builtin_memcpy(&value, p, 4);
    return value;
}

static size_t compress(void)
{
    static int16_t heads[1 << HASH_BITS]; // position + 1 of the last four bytes with this hash
    for (size_t i = 0; i < 1 << HASH_BITS; i++) heads[i] = 0;
    size_t out = 0, literals = 0, i = 0;
    while (i < TEXT) {
        size_t length = 0, from = 0;
        if (i + 4 <= TEXT) {
            uint32_t h = four(text + i) * 2654435761u >> (32 - HASH_BITS);
            if (heads[h]) {
                from = (size_t)heads[h] - 1;
                while (length < LONGEST && i + length < TEXT && text[from + length] == text[i + length]) length++;
            }
            heads[h] = (int16_t)(i + 1);
        }
        if (length >= 4) {
            literals = 0;
            packed[out++] = (uint8_t)(0x80 | (length - 4));
            packed[out++] = (uint8_t)(i - from);
            packed[out++] = (uint8_t)((i - from) >> 8);
            i += length;
        } else {
            if (literals == 0 || packed[literals - 1] == 127) {
                packed[out++] = 0;
                literals = out; // one behind the count
            }
            packed[literals - 1]++;
            packed[out++] = text[i++];
        }
    }
    return out;
}

static size_t decompress(size_t length)
{
    size_t out = 0;
    for (size_t i = 0; i < length;) {
        uint8_t token = packed[i++];
        if (token & 0x80) {
            size_t n = (token & 0x7Fu) + 4, distance = packed[i] | (size_t)packed[i + 1] << 8;
            i += 2;
            for (; n > 0 && out < TEXT; n--, out++) unpacked[out] = unpacked[out - distance];
        } else {
            for (; token > 0 && out < TEXT; token--) unpacked[out++] = packed[i++];
        }
    }
    return out;
}

uint64_t lz_unit(void)
{
    size_t length = compress();
    if (decompress(length) != TEXT) fail("decompressed to another length");
    uint64_t sum = length;
    for (size_t i = 0; i < length; i += 61) sum = mix(sum, packed[i]);
    for (size_t i = 0; i < TEXT; i += 8) {
        if (four(text + i) != four(unpacked + i)) fail("decompressed to other text at %zu", i);
    }
    return sum;
}

// Open addressing with linear probing: insert, look up, remove.
enum { SLOTS = 1 << 15, KEYS = 8000 };
struct slot { uint64_t key, value; };
static struct slot *table;

void hash_table_prepare(void) { table = allocate(SLOTS * sizeof *table); }

static struct slot *find(uint64_t key)
{
    uint64_t i = (key * 0x9E3779B97F4A7C15u) >> 49;
    while (table[i].key != 0 && table[i].key != key) i = (i + 1) & (SLOTS - 1);
    return &table[i];
}

uint64_t hash_table_unit(void)
{
    uint64_t random = OPAQUE(88172645463325252ul), sum = 0;
    for (int i = 0; i < KEYS; i++) {
        struct slot *slot = find(next_random(&random));
        slot->key = random;
        slot->value = (uint64_t)i;
    }
    random = OPAQUE(88172645463325252ul);
    for (int i = 0; i < KEYS; i++) {
        struct slot *slot = find(next_random(&random));
        if (slot->value != (uint64_t)i) fail("key %d has the value %lu", i, slot->value);
        sum = mix(sum, slot->key + find(random ^ 2)->value); // the other is absent, mostly
    }
    random = OPAQUE(88172645463325252ul);
    for (int i = 0; i < KEYS; i++) { // all go, so no order has to be kept
        uint64_t j = (next_random(&random) * 0x9E3779B97F4A7C15u) >> 49;
        for (; table[j].key != 0; j = (j + 1) & (SLOTS - 1)) table[j] = (struct slot){ 0, 0 };
    }
    for (int i = 0; i < SLOTS; i += 97) {
        if (table[i].key != 0) fail("slot %d is still in use", i);
    }
    return sum;
}

// A register machine that counts primes by trial division, in bytecode.
enum { LOAD, MOVE, ADD, MULTIPLY, MODULO, LESS, JUMP, JUMP_IF_ZERO, JUMP_IF, STOP };
struct code { uint8_t operation, a, b; int8_t target; int32_t value; };

uint64_t bytecode_unit(void)
{
    static const struct code program[] = {
        [0] = { LOAD, 0, 0, 0, 2 },         // r0: candidate
        [1] = { LOAD, 1, 0, 0, 0 },         // r1: sum of primes
        [2] = { LOAD, 5, 0, 0, 1 },
        [3] = { LOAD, 6, 0, 0, 900 },
        [4] = { LOAD, 2, 0, 0, 2 },         // r2: divisor
        [5] = { MOVE, 3, 2, 0, 0 },
        [6] = { MULTIPLY, 3, 2, 0, 0 },
        [7] = { MOVE, 4, 0, 0, 0 },
        [8] = { LESS, 4, 3, 0, 0 },         // candidate < divisor²: a prime
        [9] = { JUMP_IF, 4, 0, 15, 0 },
        [10] = { MOVE, 4, 0, 0, 0 },
        [11] = { MODULO, 4, 2, 0, 0 },
        [12] = { JUMP_IF_ZERO, 4, 0, 16, 0 },
        [13] = { ADD, 2, 5, 0, 0 },
        [14] = { JUMP, 0, 0, 5, 0 },
        [15] = { ADD, 1, 0, 0, 0 },
        [16] = { ADD, 0, 5, 0, 0 },
        [17] = { MOVE, 4, 0, 0, 0 },
        [18] = { LESS, 4, 6, 0, 0 },
        [19] = { JUMP_IF, 4, 0, 4, 0 },
        [20] = { STOP, 0, 0, 0, 0 },
    };
    int64_t r[8] = { 0 };
    uint64_t executed = 0;
    for (const struct code *at = OPAQUE(&program[0]);; executed++) {
        const struct code c = *at++;
        switch (c.operation) {
        case LOAD: r[c.a] = c.value; break;
        case MOVE: r[c.a] = r[c.b]; break;
        case ADD: r[c.a] += r[c.b]; break;
        case MULTIPLY: r[c.a] *= r[c.b]; break;
        case MODULO: r[c.a] %= r[c.b]; break;
        case LESS: r[c.a] = r[c.a] < r[c.b]; break;
        case JUMP: at = &program[c.target]; break;
        case JUMP_IF_ZERO: if (r[c.a] == 0) at = &program[c.target]; break;
        case JUMP_IF: if (r[c.a] != 0) at = &program[c.target]; break;
        case STOP: return mix((uint64_t)r[1], executed);
        }
    }
}
