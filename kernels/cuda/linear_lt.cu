/* Matrix products through cuBLASLt. The library is asked once per shape, types, layout and epilogue which algorithm to
 * take; the answer and the descriptors are kept in ctx.cuda->matmul, a small table in which the least recently used of
 * a few entries makes room (the number of rows differs from batch to batch).
 *
 * So that the choice, and with it the bits, does not depend on where an arena put a tensor, the library is told no more
 * about alignment than 16 bytes. Sums over parts of k that go through the output's bf16 are not allowed. */
#include <cublasLt.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/dev/matmul_parts.cuh"

static const size_t LT_WORKSPACE = (size_t)64 << 20;

enum { LT_SETS = 256, LT_WAYS = 4, LT_ANSWERS = 8 };

typedef struct {
    int64_t m, n, k, lda, ldb, ldd;
    int32_t ta, tb, in, out, add, epilogue;
    int32_t align_a, align_b, align_d, zero;
} lt_key;

typedef struct {
    lt_key                 key;
    uint64_t               used; /* 0: empty */
    bool                   found;
    cublasLtMatmulDesc_t   desc;
    cublasLtMatrixLayout_t a, b, d;
    cublasLtMatmulAlgo_t   algo;
} lt_entry;

struct matmul_cache {
    cublasLtHandle_t lt;
    uint64_t         clock;
    lt_entry         entry[LT_SETS][LT_WAYS];
};

#define LT_DO(call)                                                                                                    \
    do {                                                                                                               \
        cublasStatus_t lt_status = (call);                                                                             \
        CHECK(lt_status == CUBLAS_STATUS_SUCCESS, "%s: %s", #call, cublasLtGetStatusString(lt_status));                \
    } while (0)

extern "C" matmul_cache *matmul_cache_new(void) {
    matmul_cache *m = (matmul_cache *)calloc(1, sizeof *m);
    CHECK(m, "no memory for the table of matrix products");
    LT_DO(cublasLtCreate(&m->lt));
    return m;
}

static void entry_clear(lt_entry *e) {
    if (e->d) LT_DO(cublasLtMatrixLayoutDestroy(e->d));
    if (e->b) LT_DO(cublasLtMatrixLayoutDestroy(e->b));
    if (e->a) LT_DO(cublasLtMatrixLayoutDestroy(e->a));
    if (e->desc) LT_DO(cublasLtMatmulDescDestroy(e->desc));
    memset(e, 0, sizeof *e);
}

extern "C" void matmul_cache_free(matmul_cache *m) {
    if (!m) return;
    for (int s = 0; s < LT_SETS; s++)
        for (int w = 0; w < LT_WAYS; w++) entry_clear(&m->entry[s][w]);
    LT_DO(cublasLtDestroy(m->lt));
    free(m);
}

/* ---- one entry --------------------------------------------------------------------------------------------------- */

static int alignment(const void *p) {
    uintptr_t bits = (uintptr_t)p | 16;
    return (int)(bits & (~bits + 1));
}

static lt_key key_of(const lt_product *p) {
    lt_key k;
    memset(&k, 0, sizeof k);
    k.m = p->m;
    k.n = p->n;
    k.k = p->k;
    k.lda = p->lda;
    k.ldb = p->ldb;
    k.ldd = p->ldd;
    k.ta = p->ta;
    k.tb = p->tb;
    k.in = p->in;
    k.out = p->out;
    k.add = p->add;
    k.epilogue = p->epilogue;
    k.align_a = alignment(p->a);
    k.align_b = alignment(p->b);
    k.align_d = alignment(p->d);
    return k;
}

static uint64_t key_hash(const lt_key *k) {
    uint64_t word[sizeof *k / 8], h = 0x9e3779b97f4a7c15u;
    static_assert(sizeof *k % 8 == 0, "whole words");
    memcpy(word, k, sizeof *k);
    for (size_t i = 0; i < sizeof *k / 8; i++) {
        h = (h ^ word[i]) * 0xff51afd7ed558ccdu;
        h ^= h >> 32;
    }
    return h;
}

static cudaDataType_t type_of(dtype dt) {
    return dt == DT_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

static void desc_set(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t what, const void *value, size_t bytes) {
    LT_DO(cublasLtMatmulDescSetAttribute(d, what, value, bytes));
}

static void epilogue_pointers(cublasLtMatmulDesc_t d, const lt_key *k, const void *bias, const void *aux) {
    if (k->epilogue == LT_BIAS || k->epilogue == LT_GELU_BIAS)
        desc_set(d, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias);
    if (k->epilogue >= LT_GELU) desc_set(d, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &aux, sizeof aux);
}

static void describe(lt_entry *e) {
    static const cublasLtEpilogue_t epilogue[] = {CUBLASLT_EPILOGUE_DEFAULT, CUBLASLT_EPILOGUE_BIAS,
                                                  CUBLASLT_EPILOGUE_GELU_AUX, CUBLASLT_EPILOGUE_GELU_AUX_BIAS,
                                                  CUBLASLT_EPILOGUE_DGELU};

    const lt_key *k = &e->key;
    /* f32 products are those of f32 numbers: nothing that the library may round on the way. */
    LT_DO(cublasLtMatmulDescCreate(&e->desc, k->in == DT_F32 ? CUBLAS_COMPUTE_32F_PEDANTIC : CUBLAS_COMPUTE_32F,
                                   CUDA_R_32F));
    cublasOperation_t ta = k->ta ? CUBLAS_OP_T : CUBLAS_OP_N, tb = k->tb ? CUBLAS_OP_T : CUBLAS_OP_N;
    desc_set(e->desc, CUBLASLT_MATMUL_DESC_TRANSA, &ta, sizeof ta);
    desc_set(e->desc, CUBLASLT_MATMUL_DESC_TRANSB, &tb, sizeof tb);
    desc_set(e->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue[k->epilogue], sizeof *epilogue);
    if (k->epilogue >= LT_GELU) desc_set(e->desc, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &k->ldd, sizeof k->ldd);
    /* The choice looks at the alignment of these addresses and at nothing else of them. */
    const void *on_16 = (const void *)(uintptr_t)0x100010;
    epilogue_pointers(e->desc, k, on_16, on_16);
    cudaDataType_t in = type_of((dtype)k->in), out = type_of((dtype)k->out);
    LT_DO(cublasLtMatrixLayoutCreate(&e->a, in, (uint64_t)(k->ta ? k->k : k->m), (uint64_t)(k->ta ? k->m : k->k),
                                     k->lda));
    LT_DO(cublasLtMatrixLayoutCreate(&e->b, in, (uint64_t)(k->tb ? k->n : k->k), (uint64_t)(k->tb ? k->k : k->n),
                                     k->ldb));
    LT_DO(cublasLtMatrixLayoutCreate(&e->d, out, (uint64_t)k->m, (uint64_t)k->n, k->ldd));
}

static void pref_set(cublasLtMatmulPreference_t p, cublasLtMatmulPreferenceAttributes_t what, const void *value,
                     size_t bytes) {
    LT_DO(cublasLtMatmulPreferenceSetAttribute(p, what, value, bytes));
}

static void choose(matmul_cache *m, lt_entry *e) {
    const lt_key                   *k = &e->key;
    cublasLtMatmulPreference_t      pref;
    cublasLtMatmulHeuristicResult_t answer[LT_ANSWERS];
    int                             n = 0;
    uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    uint32_t align_a = (uint32_t)k->align_a, align_b = (uint32_t)k->align_b, align_d = (uint32_t)k->align_d;
    LT_DO(cublasLtMatmulPreferenceCreate(&pref));
    pref_set(pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &LT_WORKSPACE, sizeof LT_WORKSPACE);
    pref_set(pref, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions, sizeof reductions);
    pref_set(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &align_a, sizeof align_a);
    pref_set(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &align_b, sizeof align_b);
    pref_set(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &align_d, sizeof align_d);
    pref_set(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &align_d, sizeof align_d);
    cublasStatus_t s =
        cublasLtMatmulAlgoGetHeuristic(m->lt, e->desc, e->a, e->b, e->d, e->d, pref, LT_ANSWERS, answer, &n);
    CHECK(s == CUBLAS_STATUS_SUCCESS || s == CUBLAS_STATUS_NOT_SUPPORTED || s == CUBLAS_STATUS_INVALID_VALUE,
          "cublasLtMatmulAlgoGetHeuristic: %s", cublasLtGetStatusString(s));
    if (s != CUBLAS_STATUS_SUCCESS) n = 0;
    for (int i = 0; i < n && !e->found; i++) {
        if (answer[i].state != CUBLAS_STATUS_SUCCESS || answer[i].workspaceSize > LT_WORKSPACE) continue;
        e->algo = answer[i].algo;
        e->found = true;
    }
    LT_DO(cublasLtMatmulPreferenceDestroy(pref));
}

/* Not silent, but a run whose batches all differ in size need not fill its log with it. */
static void tell_missing(const lt_key *k, const char *why) {
    static int told;
    log_at(told++ < 8 ? LOG_WARN : LOG_DEBUG,
           "cuBLASLt has no product (%lld,%lld,%lld) of %s to %s, transposed %d %d, epilogue %d (%s): a slower way is "
           "taken",
           (long long)k->m, (long long)k->n, (long long)k->k, dtype_name((dtype)k->in), dtype_name((dtype)k->out),
           k->ta, k->tb, k->epilogue, why);
}

static lt_entry *find_entry(matmul_cache *m, const lt_key *k) {
    lt_entry *set = m->entry[key_hash(k) % LT_SETS], *old = set;
    for (int w = 0; w < LT_WAYS; w++) {
        if (set[w].used && memcmp(&set[w].key, k, sizeof *k) == 0) {
            set[w].used = ++m->clock;
            return &set[w];
        }
        if (set[w].used < old->used) old = &set[w];
    }
    entry_clear(old);
    old->key = *k;
    old->used = ++m->clock;
    describe(old);
    choose(m, old);
    if (!old->found) tell_missing(k, "no algorithm");
    return old;
}

/* ---- the product ------------------------------------------------------------------------------------------------- */

/* bf16 rows on odd addresses are left to the general kernel. */
static bool can_do(const lt_product *p) {
    int least = p->in == DT_BF16 ? 4 : (int)dtype_size(p->in);
    if (p->m <= 0 || p->n <= 0 || p->k <= 0) return false;
    if (p->in == DT_BF16 && (p->lda % 2 || p->ldb % 2 || (p->out == DT_BF16 && p->ldd % 2))) return false;
    return alignment(p->a) >= least && alignment(p->b) >= least && alignment(p->d) >= 4;
}

bool lt_run(ctx *c, const lt_product *p) {
    matmul_cache *m = c->cuda->matmul;
    if (!can_do(p)) return false;
    lt_key    k = key_of(p);
    lt_entry *e = find_entry(m, &k);
    if (!e->found) return false;
    size_t      mark = arena_mark(&c->scratch);
    uintptr_t   room = (uintptr_t)arena_alloc(&c->scratch, LT_WORKSPACE + 255);
    void       *workspace = (void *)((room + 255) & ~(uintptr_t)255); /* the library wants 256 bytes of alignment */
    const float one = 1.0f, beta = p->add ? 1.0f : 0.0f;
    epilogue_pointers(e->desc, &k, p->bias, p->aux);
    cublasStatus_t s = cublasLtMatmul(m->lt, e->desc, &one, p->a, e->a, p->b, e->b, &beta, p->d, e->d, p->d, e->d,
                                      &e->algo, workspace, LT_WORKSPACE, stream_of(c));
    arena_reset(&c->scratch, mark); /* later kernels of the stream come after this one */
    if (s == CUBLAS_STATUS_NOT_SUPPORTED || s == CUBLAS_STATUS_INVALID_VALUE) {
        e->found = false;
        tell_missing(&k, cublasLtGetStatusString(s));
        return false;
    }
    CHECK(s == CUBLAS_STATUS_SUCCESS, "cublasLtMatmul (%lld,%lld,%lld): %s", (long long)p->m, (long long)p->n,
          (long long)p->k, cublasLtGetStatusString(s));
    LAUNCHED(c);
    return true;
}
