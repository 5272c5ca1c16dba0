/* attn_select, backward for the keys: what there is to do. For every key head and block the list of the queries that
 * selected it, by a stable sort of all (block, query) pairs; so sums have one order and nothing is added atomically.
 * And the items of work of the bf16 forms: lists are cut into parts of equal length, so that a block that everybody
 * selected is not left to one block of threads. The longest items come first, so parts may be long, and few of them
 * need a place for their sums. */
#include <cub/block/block_reduce.cuh>
#include <cub/block/block_scan.cuh>
#include <cub/device/device_radix_sort.cuh>

#include "kernels/cuda/dev/select_keys.cuh"

namespace {

enum {
    PLAN_THREADS = 1024,
    MIN_PART = 128, /* queries */
    LEVELS = 64,
    PARTS_OF_SLOT = 4,
    ORDERED = 4,        /* eighths of the lists */
    MIN_SUMS = 32 << 20 /* bytes */
};

/* ---- lists ------------------------------------------------------------------------------------------------------ */

/* A pair as one number: the list above `query_bits` bits of the query. */
template <class K>
__global__ void __launch_bounds__(256) fill_pairs_kernel(const select_view a, int query_bits, K *pair) {
    int i = blockIdx.x * blockDim.x + threadIdx.x, n = (int)a.N;
    if (i >= n * a.G * a.K) return;
    int b = a.block[i], row = i / a.K, g = row / n;
    pair[i] = (K)(b < 0 ? a.G * a.NB : g * a.NB + b) << query_bits | (K)(row - g * n);
}

/* The queries of sorted pairs, and first[l]: number of pairs in lists before l, l = 0 .. n_lists; by the pair before
 * which lists end. */
template <class K>
__global__ void __launch_bounds__(256)
    split_pairs_kernel(const K *pair, int query_bits, int n_pairs, int n_lists, int32_t *query, int32_t *first) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i > n_pairs) return;
    const K x = i < n_pairs ? pair[i] : (K)n_lists << query_bits;
    if (i < n_pairs) query[i] = (int32_t)(x & (((K)1 << query_bits) - 1));
    for (int l = i ? (int)(pair[i - 1] >> query_bits) + 1 : 0; l <= (int)(x >> query_bits); l++) first[l] = i;
}

template <class K> void make_lists(ctx *c, const select_view &a, int query_bits, int list_bits, const select_lists &l) {
    const int            n = (int)(a.N * a.G * a.K);
    const size_t         mark = arena_mark(&c->scratch);
    size_t               bytes = 0;
    cub::DoubleBuffer<K> pair((K *)arena_alloc(&c->scratch, (size_t)n * sizeof(K)),
                              (K *)arena_alloc(&c->scratch, (size_t)n * sizeof(K)));
    fill_pairs_kernel<K><<<(unsigned)ceil_div(n, 256), 256, 0, stream_of(c)>>>(a, query_bits, pair.Current());
    LAUNCHED(c);
    /* Stable, so the bits of the query need no sorting. */
    CUDA_DO(cub::DeviceRadixSort::SortKeys(NULL, bytes, pair, n, query_bits, query_bits + list_bits, stream_of(c)));
    void *room = arena_alloc(&c->scratch, bytes);
    CUDA_DO(cub::DeviceRadixSort::SortKeys(room, bytes, pair, n, query_bits, query_bits + list_bits, stream_of(c)));
    LAUNCHED(c);
    split_pairs_kernel<K><<<(unsigned)ceil_div(n + 1, 256), 256, 0, stream_of(c)>>>(pair.Current(), query_bits, n, l.n,
                                                                                    l.query, l.first);
    LAUNCHED(c);
    arena_reset(&c->scratch, mark);
}

/* ---- items of work ---------------------------------------------------------------------------------------------- */

/* A list and its block, cut. */
struct list_cut {
    int list, query, length, first, size, part, keys, parts, tiles; /* tiles: of `keys` keys */

    __device__ __forceinline__ list_cut(const select_lists &lists, const int32_t *block_first, int NB, int l, int part,
                                        int keys)
        : list(l), query(lists.first[l]), length(lists.first[l + 1] - query), first(block_first[l % NB]),
          size(block_first[l % NB + 1] - first), part(part), keys(keys), parts(parts_of(length, part)),
          tiles(parts_of(size, keys)) {}
    __device__ __forceinline__ int  sum_rows() const { return parts > 1 ? parts * size : 0; }
    /* Items of parts p0 .. p1-1 and tiles t0 .. t1-1. */
    __device__ __forceinline__ void write(dkv_item *to, int p0, int p1, int t0, int t1) const {
        for (int p = p0; p < p1; p++)
            for (int t = t0; t < t1; t++)
                *to++ = dkv_item{list, p, parts, t * keys, query + p * part, min(part, length - p * part), first, size};
    }
    /* The last part and the last tile are shorter: so there are four sets of items that take equally long.
     * visit(level, p0, p1, t0, t1); level: 0 for the longest. Up to keys/2 keys take half the time. */
    template <class F> __device__ __forceinline__ void for_sets(const F &visit) const {
        for (int i = 0; i < 4; i++) {
            const int p0 = i % 2 ? parts - 1 : 0, p1 = i % 2 ? parts : parts - 1;
            const int t0 = i / 2 ? tiles - 1 : 0, t1 = i / 2 ? tiles : tiles - 1;
            if (p0 < 0 || t0 < 0 || p0 >= p1 || t0 >= t1) continue;
            const int   queries = i % 2 ? length - p0 * part : part, n_keys = i / 2 ? size - t0 * keys : keys;
            const float share = (float)queries / part * (2 * n_keys > keys ? 1.f : 0.5f);
            visit(LEVELS - 1 - min(LEVELS - 1, (int)(share * LEVELS)), p0, p1, t0, t1);
        }
    }
};

/* Of all threads, for all. */
__device__ int64_t block_sum(int64_t x) {
    typedef cub::BlockReduce<int64_t, PLAN_THREADS> reduce;
    __shared__ typename reduce::TempStorage         room;
    __shared__ int64_t                              sum;
    __syncthreads(); /* the last sum has been read */
    x = reduce(room).Sum(x);
    if (threadIdx.x == 0) sum = x;
    __syncthreads();
    return sum;
}
/* Of the threads before; *sum: of all. */
__device__ int sum_before(int x, int *sum) {
    typedef cub::BlockScan<int, PLAN_THREADS> scan;
    __shared__ typename scan::TempStorage     room;
    __syncthreads();
    scan(room).ExclusiveSum(x, x, *sum);
    return x;
}

/* One block of threads. n_slots: how many items are worked on at a time; room for max_rows rows in `sums` (lists of a
 * single part need none) and max_items items. Items are taken in order: first those of the first lists as they come, as
 * neighbours have rows in common, then the longest ones first, so that all slots end together. */
__global__ void __launch_bounds__(PLAN_THREADS)
    plan_kernel(const select_lists lists, const int32_t *block_first, int NB, int keys, int n_slots, int64_t max_rows,
                int max_items, dkv_tables t) {
    __shared__ int place[LEVELS];
    int64_t        work = 0;
    for (int l = threadIdx.x; l < lists.n; l += PLAN_THREADS) {
        list_cut x(lists, block_first, NB, l, 1, keys);
        work += (int64_t)x.length * parts_of(2 * x.size, keys);
    }
    /* in queries of whole tiles, what a slot does in a quarter of the time */
    int part = (int)min(block_sum(work) / (2 * PARTS_OF_SLOT * n_slots), (int64_t)1 << 28) / 32 * 32;
    for (part = max(part, (int)MIN_PART); part < 1 << 29; part *= 2) {
        int64_t rows = 0, items = 0;
        for (int l = threadIdx.x; l < lists.n; l += PLAN_THREADS) {
            list_cut x(lists, block_first, NB, l, part, keys);
            rows += x.sum_rows();
            items += (int64_t)x.parts * x.tiles;
        }
        rows = block_sum(rows);
        items = block_sum(items);
        if (rows <= max_rows && items <= max_items) break;
    }
    for (int i = threadIdx.x; i < LEVELS; i += PLAN_THREADS) place[i] = 0;
    const int ordered = lists.n * ORDERED / 8;
    int       n_rows = 0, n_items = 0;
    __syncthreads();
    for (int l0 = 0; l0 < lists.n; l0 += PLAN_THREADS) {
        const int l = l0 + threadIdx.x;
        list_cut  x(lists, block_first, NB, min(l, lists.n - 1), part, keys);
        int       more, row = n_rows + sum_before(l < lists.n ? x.sum_rows() : 0, &more);
        n_rows += more;
        int item = n_items + sum_before(l < ordered ? x.parts * x.tiles : 0, &more);
        n_items += more;
        if (l >= lists.n) continue;
        t.sum_first[l] = row;
        if (l < ordered)
            x.write(t.item + item, 0, x.parts, 0, x.tiles);
        else
            x.for_sets(
                [&](int level, int p0, int p1, int t0, int t1) { atomicAdd(&place[level], (p1 - p0) * (t1 - t0)); });
    }
    __syncthreads();
    int later, at = sum_before(threadIdx.x < LEVELS ? place[threadIdx.x] : 0, &later);
    if (threadIdx.x < LEVELS) place[threadIdx.x] = n_items + at;
    __syncthreads();
    /* Within a level in any order: it changes no sum. */
    for (int l = ordered + threadIdx.x; l < lists.n; l += PLAN_THREADS) {
        list_cut x(lists, block_first, NB, l, part, keys);
        x.for_sets([&](int level, int p0, int p1, int t0, int t1) {
            x.write(t.item + atomicAdd(&place[level], (p1 - p0) * (t1 - t0)), p0, p1, t0, t1);
        });
    }
    if (threadIdx.x == 0) *t.plan = dkv_plan{part, n_items + later, 0};
}

int bits_of(int64_t x) {
    int bits = 1;
    while (x >> bits) bits++;
    return bits;
}

} // namespace

select_lists select_make_lists(ctx *c, const select_view &a) {
    select_lists lists = {};
    lists.n = a.G * a.NB;
    lists.query = (int32_t *)arena_alloc(&c->scratch, (size_t)(a.N * a.G * a.K) * sizeof(int32_t));
    lists.first = (int32_t *)arena_alloc(&c->scratch, (size_t)(lists.n + 1) * sizeof(int32_t));
    const int query_bits = bits_of(a.N - 1), list_bits = bits_of(lists.n);
    if (query_bits + list_bits <= 32)
        make_lists<uint32_t>(c, a, query_bits, list_bits, lists);
    else
        make_lists<uint64_t>(c, a, query_bits, list_bits, lists);
    return lists;
}

/* Sums of parts have as much room as packed keys, whose place they take where nobody reads those any more. */
void select_make_plan(ctx *c, const select_view &a, dkv_tables *t, int keys, int n_slots) {
    const int64_t row_bytes = 2 * a.D * (int64_t)sizeof(float), max_rows = max(a.N * a.G / 2, MIN_SUMS / row_bytes);
    /* enough for uncut lists, and for parts of twice MIN_PART queries if all blocks have one tile of keys */
    const int64_t max_items = t->lists.n + a.N * a.G / keys + a.N * a.G * a.K / (2 * MIN_PART);
    t->plan = (dkv_plan *)arena_alloc(&c->scratch, sizeof *t->plan);
    t->item = (dkv_item *)arena_alloc(&c->scratch, (size_t)max_items * sizeof *t->item);
    t->sum_first = (int32_t *)arena_alloc(&c->scratch, (size_t)t->lists.n * sizeof(int32_t));
    t->sums = (float *)arena_alloc(&c->scratch, (size_t)(max_rows * row_bytes));
    plan_kernel<<<1, PLAN_THREADS, 0, stream_of(c)>>>(t->lists, a.first, a.NB, keys, n_slots, max_rows, (int)max_items,
                                                      *t);
    LAUNCHED(c);
}
