// Integer code: arithmetic, branches, small arrays, and pointers that are followed.
#include "bench.h"

uint64_t arithmetic_unit(void)
{
    uint64_t a = OPAQUE(0x123456789ABCDEFul), b = 1, c = 0;
    uint32_t d = (uint32_t)a;
    for (uint64_t i = 0; i < 100000; i++) {
        a = a * 6364136223846793005u + 1442695040888963407u;
        b ^= a >> 29;
        b = (b << 13 | b >> 51) + i;
        d = (d << 5) - d + (uint32_t)(b & 0xFFFF);
        c += (uint64_t)((unsigned __int128)a * b >> 64) ^ d;
        if ((i & 15) == 0) c += b / (a | 1) + (uint32_t)c % (d | 1);
    }
    return mix(mix(a, b), mix(c, d));
}

// Steps of the Collatz sequence and a binary search: branches that depend on data.
uint64_t branchy_unit(void)
{
    uint64_t sum = 0, random = OPAQUE(88172645463325252ul);
    for (uint64_t start = 1; start < 2000; start++) {
        uint64_t n = start, steps = 0;
        while (n != 1) {
            if (n & 1) n = 3 * n + 1;
            else n >>= 1;
            TOUCH(n); // keeps the branch a branch
            steps++;
        }
        uint64_t low = 0, high = 4096, wanted = next_random(&random) & 4095;
        while (high - low > 1) {
            uint64_t middle = (low + high) / 2;
            if (middle <= wanted) low = middle;
            else high = middle;
            TOUCH(middle);
        }
        sum = mix(sum, steps * 4096 + low);
    }
    return sum;
}

uint64_t sieve_unit(void)
{
    enum { LIMIT = 100000 };
    static uint8_t composite[LIMIT];
    for (int i = 0; i < LIMIT; i++) composite[i] = 0;
    TOUCH(composite);
    uint64_t sum = 0;
    for (int i = 2; i < LIMIT; i++) {
        if (composite[i]) continue;
        sum += (uint64_t)i;
        for (int64_t j = (int64_t)i * i; j < LIMIT; j += i) composite[j] = 1;
    }
    return sum;
}

enum { SORTED = 8192 };
static uint32_t *unsorted, *sorted;

void sort_prepare(void)
{
    uint64_t random = 88172645463325252u;
    unsorted = allocate(SORTED * sizeof *unsorted);
    sorted = allocate(SORTED * sizeof *sorted);
    for (int i = 0; i < SORTED; i++) unsorted[i] = (uint32_t)(next_random(&random) >> 11);
}

static void quicksort(uint32_t *first, uint32_t *last)
{
    while (last - first > 16) {
        uint32_t pivot = first[(last - first) / 2], *i = first, *j = last;
        while (i <= j) {
            while (*i < pivot) i++;
            while (*j > pivot) j--;
            if (i <= j) {
                uint32_t t = *i;
                *i++ = *j;
                *j-- = t;
            }
        }
        quicksort(first, j);
        first = i;
    }
    for (uint32_t *i = first + 1; i <= last; i++) {
        uint32_t value = *i, *j = i;
        for (; j > first && j[-1] > value; j--) *j = j[-1];
        *j = value;
    }
}

uint64_t sort_unit(void)
{
    for (int i = 0; i < SORTED; i++) sorted[i] = unsorted[i];
    quicksort(sorted, sorted + SORTED - 1);
    uint64_t sum = 0;
    for (int i = 0; i < SORTED; i++) {
        if (i > 0 && sorted[i - 1] > sorted[i]) fail("not sorted at %d", i);
        if ((i & 63) == 0) sum = mix(sum, sorted[i]);
    }
    return sum;
}

// One cycle through all nodes in random order. A unit follows HOPS of them, and units go on where the last one stopped, so that the large list
// does not turn into a small one; where each unit must end was found out beforehand.
struct node { struct node *next; uint64_t number; uint64_t unused[6]; };
enum { HOPS = 8192 };
struct chase { struct node *nodes, *at, **stops; uint64_t count, stop, sum; };
static struct chase small, large;

static void chase_prepare(struct chase *chase, uint64_t count)
{
    uint64_t random = 88172645463325252u;
    struct node *nodes = allocate(count * sizeof *nodes);
    for (uint64_t i = 0; i < count; i++) {
        nodes[i].number = i;
        nodes[i].next = &nodes[i];
    }
    for (uint64_t i = count - 1; i > 0; i--) { // Sattolo: one cycle
        uint64_t j = next_random(&random) % i;
        struct node *t = nodes[i].next;
        nodes[i].next = nodes[j].next;
        nodes[j].next = t;
    }
    chase->nodes = chase->at = nodes;
    chase->count = count / HOPS > 0 ? count / HOPS : 1; // the counts are powers of two
    chase->stops = allocate(chase->count * sizeof *chase->stops);
    chase->sum = count;
    const struct node *at = nodes;
    for (uint64_t s = 0; s < chase->count; s++) {
        for (int i = 0; i < HOPS; i++) at = at->next;
        chase->stops[s] = (struct node *)at;
        chase->sum = mix(chase->sum, at->number);
    }
}

static uint64_t chase(struct chase *chase)
{
    struct node *at = chase->at;
    for (int i = 0; i < HOPS; i += 4) at = at->next->next->next->next;
    if (at != chase->stops[chase->stop]) fail("the pointers led elsewhere");
    chase->at = at;
    chase->stop = chase->stop + 1 == chase->count ? 0 : chase->stop + 1;
    return chase->sum;
}

void chase_l1_prepare(void) { chase_prepare(&small, 256); }         // 16 KiB
void chase_memory_prepare(void) { chase_prepare(&large, 1 << 20); } // 64 MiB
uint64_t chase_l1_unit(void) { return chase(&small); }
uint64_t chase_memory_unit(void) { return chase(&large); }
