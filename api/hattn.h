/* SPDX-License-Identifier: Apache-2.0
 *
 * hattn: hash-attention kernels for LLM decode. The only public header.
 *
 * Every cached key has a short binary code beside it. A decode step turns its queries into integer weights, scores
 * all codes with popcounts, keeps the k best tokens exactly, and attends to those tokens only.
 *
 * Use: open a device, fill a problem (shapes, dtypes, maxima: no pointers; zeros mean the usual), create a plan (the
 * only call that can say no to a problem), give it a workspace, and run it as often as you like with pointers.
 *
 * Words: row = one query token of one sequence; h = query head of Hq; g = KV head of Hkv; G = Hq/Hkv; c = code head of
 * Hc (a head with key codes of its own); s = selection head of Hs (a head that a selection is made for); j = logical
 * position of a key in its sequence; r = bit of a code; W = (code_bits + 31) / 32, the words of a code.
 *
 * Rules for everything below:
 * - Memory is the caller's; the library keeps no pointer after a call. It never prints, aborts, exits or throws.
 * - The last dimension of every tensor is contiguous; other strides are in elements, not bytes. Inputs may be
 *   broadcast; outputs must not overlap themselves or an input, unless said.
 * - Pointers are aligned to their element on CPUs, to 16 bytes on GPUs. Rows start at that alignment plus strides.
 * - Any thread may use any device or plan. Two runs at one time need two workspaces.
 * - Structs that start with struct_size grow by fields at their end, never in their padding; set it to sizeof(the
 *   struct), as HATTN_STRUCT does. A caller built with an older, shorter struct is served as if the new fields were 0;
 *   a longer one is served if what this library does not know of it is 0, else refused. Fields named reserved must be
 *   0. Structs without struct_size are frozen: hattn_error, hattn_tensor, hattn_map, hattn_buffer, hattn_batch,
 *   hattn_map_buffers and hattn_team never change; what they lack will come as fields of the structs around them. Calls
 *   keep their names and meaning.
 * - Functions with a `hattn_error *` accept NULL there. Every refusal has a text.
 * - On CPUs a run computes in the default floating-point environment (round to nearest, subnormals kept, no traps),
 *   whatever the calling thread's is, and gives it back as found.
 * - fork: in the child, devices and plans of the parent work on the calling thread alone, and may be closed. CUDA's do
 *   not work.
 */
#ifndef HATTN_H
#define HATTN_H

#include <stddef.h>
#include <stdint.h>

#define HATTN_VERSION_MAJOR 0
#define HATTN_VERSION_MINOR 1
#define HATTN_VERSION_PATCH 0

#define HATTN_API __attribute__((visibility("default")))

/* HATTN_STRUCT(hattn_exec, .num_threads = 2): a struct with its size set and all that is not named 0 (C11, C++20). */
#define HATTN_STRUCT(type, ...) ((type){.struct_size = sizeof(type), __VA_ARGS__})

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Status ---------------------------------------------------------------------------------------------------- */

typedef enum hattn_status {
    HATTN_OK = 0,
    HATTN_INVALID_ARGUMENT = 1,    /* null where a pointer is needed, a wrong size, a problem that contradicts itself */
    HATTN_UNSUPPORTED = 2,         /* a valid problem that this backend or version does not do; only from plan */
    HATTN_NO_DEVICE = 3,           /* the backend is not built, has no driver, or has no device of that index */
    HATTN_OUT_OF_MEMORY = 4,       /* device_open or plan_create could not allocate; nothing else allocates */
    HATTN_WORKSPACE_TOO_SMALL = 5, /* exec.workspace_size < hattn_plan_workspace_size */
    HATTN_DEVICE_ERROR = 6         /* the vendor's runtime failed; the text is the vendor's */
} hattn_status;

/* What went wrong, in words. Written only by a call that does not return HATTN_OK; needs no initial value. */
typedef struct hattn_error {
    hattn_status status;
    char text[508]; /* NUL-terminated, one line, no trailing newline; longer texts are cut */
} hattn_error;

/* "ok", "invalid argument", ...; never NULL, static. */
HATTN_API const char *hattn_status_string(hattn_status status);

/* MAJOR * 10000 + MINOR * 100 + PATCH of the library that is linked (the macros say what was compiled against). */
HATTN_API int hattn_version(void);

/* ---- Backends and devices -------------------------------------------------------------------------------------- */

typedef struct hattn_device hattn_device;

typedef struct hattn_backend_info {
    uint32_t struct_size;
    int32_t built;       /* 1 if compiled into this library */
    int32_t num_devices; /* 0 where the driver or the hardware is absent */
    char name[16];       /* "cuda", "hip", "opencl", "cpu", "reference" */
    char text[256];      /* why there is no device; empty if there is one */
} hattn_backend_info;

/* Known backends, built or not, in the order of preference: 0 is tried first. */
HATTN_API int hattn_backend_count(void);

/* Fills *info. HATTN_INVALID_ARGUMENT: index outside 0..count-1, null or wrong struct_size. Never fails for want of
 * a driver. */
HATTN_API hattn_status hattn_backend_query(int backend, hattn_backend_info *info, hattn_error *error);

typedef struct hattn_device_options {
    uint32_t struct_size;
    int32_t index;       /* which device of the backend, from 0 */
    const char *backend; /* a name; NULL: $HATTN_BACKEND if set, else the first backend with a device */
    const char *isa;     /* cpu: use nothing above "scalar", "neon", "avx2" or "avx512"; NULL: the best of this machine,
                             less what $HATTN_CPU_DISABLE lists ("avx512,avx2": any case, spaces around
                             words; a word that is no instruction set is refused). Other backends: NULL */
    /* cpu: the most threads that work on one run, 1..1024; sizes the workspace. 0: as many as the calling thread's
     * affinity and the CPU quotas of the process's groups allow. Other backends ignore it */
    int32_t max_threads;
    int32_t reserved; /* 0 */
    /* OpenCL: the caller's cl_context, retained while the device is open, and the cl_device_id of it that is meant,
     * instead of `index`; both NULL: a context of the device's own. Others NULL (CUDA and HIP use the primary context) */
    void *native_context, *native_device;
} hattn_device_options;

/* Opens a device. options NULL: the defaults. *device is set only on HATTN_OK and closed by hattn_device_close.
 * A cpu device has max_threads - 1 helper threads, fewer where the system gives fewer (hattn_device_query says how many
 * there are): all runs of the device share them, they sleep between runs, take no signals but their own faults, and end
 * with the device.
 * HATTN_INVALID_ARGUMENT: no such backend or isa name, or an option that means nothing to the backend.
 * HATTN_NO_DEVICE: not built, not present, or an ISA this machine lacks. HATTN_OUT_OF_MEMORY. HATTN_DEVICE_ERROR.
 * The current CUDA or HIP device of the calling thread is left as found.
 * CUDA and OpenCL: opens with a known answer, every operation once on a small problem; a device that gives something
 * else is refused with HATTN_DEVICE_ERROR, the text naming the operation and the first wrong value ($HATTN_SELFTEST 0 leaves it
 * out). A driver that does not compile a kernel, here or in hattn_plan_create, is HATTN_DEVICE_ERROR too, with the
 * build log from its first error. */
HATTN_API hattn_status hattn_device_open(const hattn_device_options *options, hattn_device **device,
                                         hattn_error *error);

/* Plans of the device must be destroyed first, and no run be under way. NULL is allowed. The library may be unloaded
 * after. */
HATTN_API void hattn_device_close(hattn_device *device);

typedef struct hattn_device_info {
    uint32_t struct_size;
    int32_t max_threads; /* cpu: as opened, or fewer where the system gave fewer; reference 1, others 0 */
    char backend[16];
    char name[128]; /* of the processor */
    char isa[32];   /* "avx512", "sm_80", "gfx90a", "OpenCL C 1.2 ...", ...: what kernels are chosen for */
    /* OpenCL: the cl_context and cl_device_id of the device, where its buffers must be made, and the in-order
     * cl_command_queue of runs whose exec.stream is null. The device's own, or the caller's context; they live as long as
     * the device. Others NULL */
    void *native_context, *native_device, *native_stream;
} hattn_device_info;

HATTN_API hattn_status hattn_device_query(const hattn_device *device, hattn_device_info *info, hattn_error *error);

/* ---- Problem --------------------------------------------------------------------------------------------------- */

enum { HATTN_F32 = 1, HATTN_F16, HATTN_BF16, HATTN_F8_E4M3, HATTN_I8, HATTN_U16, HATTN_I32, HATTN_U32, HATTN_I64 };
/* Pinned host: K and V only, read where they lie; on CUDA memory of cudaHostAlloc or cudaHostRegister. The same to
 * CPUs. */
enum { HATTN_MEMORY_DEVICE = 0, HATTN_MEMORY_PINNED_HOST = 1 };
enum { HATTN_MAP_LINEAR = 1, HATTN_MAP_MLP = 2 };
enum { HATTN_SCORE_HAMMING = 1, HATTN_SCORE_WEIGHTED = 2 };
enum { HATTN_CODE_LAYOUT_KEY_MAJOR = 0 }; /* all W words of a key are contiguous */

/* A stride of no elements, all indices of the dimension meaning the same, where 0 would mean compact. Inputs only. */
#define HATTN_BROADCAST (-1)

typedef struct hattn_tensor {
    int32_t dtype; /* HATTN_F32 ...; 0: the usual */
    int32_t memory;
    int64_t
        stride[3]; /* of all dimensions but the last, outermost first. All 0: compact. Else a 0 is HATTN_BROADCAST */
} hattn_tensor;

/* One side's hash map. Linear: layer 0 is [Hc, d, code_bits]. MLP: layers [Hc, d, hidden[0]], [Hc, hidden[0],
 * hidden[1]], [Hc, hidden[1], code_bits], each with a bias [Hc, out], SiLU after the first two (HashAttention,
 * section 4). */
typedef struct hattn_map {
    int32_t dtype;               /* of weights and biases: HATTN_F32, F16 or BF16 */
    int32_t hidden[2];           /* MLP: 8..1024 in steps of 8; linear: 0 */
    int32_t reserved;            /* 0 */
    int64_t weight_stride[3][2]; /* per layer: {head, input}; outputs contiguous. As of tensors: {0, 0} is compact */
    int64_t bias_stride[3];      /* per layer: {head}; 0: compact */
} hattn_map;

/* Shapes, dtypes, maxima. A field that is 0 means the usual, which the comments say; where they say nothing, 0 is a
 * value of its own or must be set. Heads, head_dim_qk, code_bits, max_sequences, max_length, k, q.dtype and
 * k_cache.dtype must be. */
typedef struct hattn_problem {
    uint32_t struct_size;
    int32_t num_q_heads;         /* Hq = G * Hkv, G 1..128 */
    int32_t num_kv_heads;        /* Hkv */
    int32_t num_code_heads;      /* Hc: Hkv (HATA; usual) or Hq (HashAttention) */
    int32_t num_selection_heads; /* Hs: Hkv (one selection a group; usual) or Hq; (Hc = Hq, Hs = Hkv) is refused */
    int32_t head_dim_qk;         /* d: 32..576 in steps of 8 */
    int32_t head_dim_v;          /* dv: likewise; may differ from d; usual: d */
    int32_t code_bits;           /* 32..512 in steps of 8 */
    int32_t code_layout;         /* HATTN_CODE_LAYOUT_KEY_MAJOR */
    int32_t map_kind;            /* of both sides; usual: linear */
    int32_t score_kind;          /* usual: hamming */
    int32_t weight_bits;         /* weighted: 2..8, usual 4; hamming: ignored */
    int32_t key_norms;           /* 1: norms are stored beside the codes and multiply the score (HATA's option) */
    int32_t page_size;           /* tokens a page, any >= 1; 0: contiguous, "page" then means "sequence" everywhere */
    int32_t max_sequences;       /* maxima: what the workspace is sized for */
    int32_t max_rows;            /* usual: max_sequences * max_q_len */
    int32_t max_q_len;           /* 1..8 query tokens of one sequence; usual: 1 */
    int32_t max_length;          /* keys of one sequence, new tokens included */
    int32_t k;                   /* the budget where args have none, and the largest that they may hold */
    int32_t num_sink;            /* first tokens, always kept; with num_recent <= k */
    int32_t num_recent;          /* last tokens, always kept */
    int32_t sliding_window;      /* 0; anything else is refused: a window is dense attention over few tokens */
    float scale;                 /* of q·k; usual: d^-0.5 */
    float soft_cap;              /* 0: none; else logits become soft_cap * tanh(logit / soft_cap) */
    int32_t per_head_kv_scales;  /* fp8: k_scale and v_scale are [1] (0) or [Hkv] (1) */
    float min_value_weight; /* with a tail: V of a selected token is read if it weighs this (hattn_attend); 0: of all */
    hattn_map key_map, query_map;
    /* Strides in brackets. "page" strides step over sequences where page_size is 0. A GPU reads 32 bytes at least: with
     * pages of fewer than 8 slots that mostly follow each other, give codes an outermost head stride, so that a head's
     * codes are neighbours; the usual, [page, Hc, slot, W], is as good for larger pages. Compact is, for caches,
     * [page][head][slot][...], everything else in the order written here. Usual dtypes: v_cache, k_new and maps as
     * k_cache (maps beside fp8: as q), out as q; where there is one choice, that. */
    hattn_tensor q;           /* [row, Hq, d]                {row, head}         F32 F16 BF16 */
    hattn_tensor k_new;       /* [token, Hkv, d]             {token, head}       as k; input of hattn_encode_keys */
    hattn_tensor k_cache;     /* [page, slot, Hkv, d]        {page, slot, head}  F32 F16 BF16 F8_E4M3 */
    hattn_tensor v_cache;     /* [page, slot, Hkv, dv]       {page, slot, head}  as k_cache; may lie inside it */
    hattn_tensor codes;       /* [page, slot, Hc, W]         {page, slot, head}  U32 */
    hattn_tensor norms;       /* [page, slot, Hc]            {page, slot, head}  F16, last dimension is 1 */
    hattn_tensor weights;     /* [row, Hs, code_bits]        {row, head}         I8 */
    hattn_tensor scores;      /* [row, Hs, max_length]       {row, head}         U16, with norms F32 */
    hattn_tensor indices;     /* [row, Hs, k]                {row, head}         I32 */
    hattn_tensor counts;      /* [row, Hs]                   {row, head}         I32 */
    hattn_tensor out;         /* [row, Hq, dv]               {row, head}         q's dtype or F32 */
    hattn_tensor lse;         /* [row, Hq]                   {row, head}         F32 */
    hattn_tensor partial_out; /* [part, row, Hq, dv]         {part, row, head}   F32; input of hattn_merge */
    hattn_tensor partial_lse; /* [part, row, Hq]             {part, row, head}   F32 */
    hattn_tensor block_table; /* [sequence, pages]           {sequence}          I32 */
    hattn_tensor budgets;     /* [sequence, Hs]              {sequence, head}    I32; zero strides allowed */
    /* A floor of probability: of a selection only tokens are kept whose estimated probability is at least this, above 0
     * and below 1 (hattn_topk); the budget is then the most. 0: none. Not with key_norms */
    float min_probability;
    int32_t min_k;       /* with a floor: so many are kept in any case, budgets permitting; usual: 64, or k */
    hattn_tensor slopes; /* [Hs]                        {head}              F32; zero stride allowed */
    hattn_tensor steps;  /* [row, Hs]                   {row, head}         I32 */
    /* A tail: tokens that are not kept count, with the mean value of all, by what scores promise of them (hattn_attend) times this
     * factor, at most 1; 0.5 is a good one. 0: none. Not with key_norms, nor with max_length above 2^22 */
    float tail;
    /* Scores per query head: of so many candidates, the best by the group's summed weights, each query head makes an estimate of its own,
     * and the sum of these decides (hattn_topk); k or more, 4 k is usual, at most 2^20. With weighted scores alone, not with key_norms, for
     * selections of up to 64 query heads. 0: none */
    int32_t num_candidates;
    hattn_tensor shares;     /* [row, Hr, k]                {row, head}         U32; Hr: Hq with candidates, else Hs */
    hattn_tensor rests;      /* [row, Hr]                   {row, head}         I64 */
    hattn_tensor value_sums; /* [state, Hkv, dv]            {state, head}       I64 */
    hattn_tensor value_lengths; /* [state, Hkv]                {state, head}       I32 */
    hattn_tensor head_weights;  /* [row, Hq, code_bits]        {row, head}         I8 */
    hattn_tensor head_slopes;   /* [Hq]                        {head}              F32; zero stride allowed */
    hattn_tensor head_steps;    /* [row, Hq]                   {row, head}         I32 */
} hattn_problem;

/* Writes the problem that a plan of *problem would have: all that is 0 and means the usual filled in, strides too;
 * broadcast strides stay HATTN_BROADCAST, so that it may be changed and given to hattn_plan_create.
 * complete->struct_size must be set before; *problem is not changed, so that calling again after changes is right.
 * HATTN_INVALID_ARGUMENT: null, the two are one struct, a struct_size. Says nothing of whether a plan would be made. */
HATTN_API hattn_status hattn_problem_complete(const hattn_problem *problem, hattn_problem *complete,
                                              hattn_error *error);

/* ---- Plan ------------------------------------------------------------------------------------------------------ */

typedef struct hattn_plan hattn_plan;

/* The only yes or no: checks the problem, chooses and loads every kernel (a first run may already be captured in a
 * graph), sizes the workspace. What it accepts runs. The problem is copied. The device must outlive the plan.
 * HATTN_INVALID_ARGUMENT, HATTN_UNSUPPORTED: error->text names the field and the rule. HATTN_OUT_OF_MEMORY.
 * HATTN_DEVICE_ERROR. */
HATTN_API hattn_status hattn_plan_create(hattn_device *device, const hattn_problem *problem, hattn_plan **plan,
                                         hattn_error *error);
HATTN_API void hattn_plan_destroy(hattn_plan *plan); /* NULL allowed; device work of the plan must be finished */

/* Bytes of workspace a run of this plan needs; one size for all of its calls, > 0. */
HATTN_API uint64_t hattn_plan_workspace_size(const hattn_plan *plan);

/* What runs count in their workspace, for those who tune or watch. A counter is a uint64 that hattn_workspace_init
 * sets to 0 and runs of all plans that share the workspace add to; read it when the runs are done, with the means of
 * the device. */
typedef enum hattn_counter {
    /* Rows and selection heads of a decode whose scores were made twice, because a sample of the row had promised
     * too much (docs/design.md): their results are the same, later. CUDA. */
    HATTN_COUNTER_RESCORED = 0
} hattn_counter;

/* *byte_offset: where in a workspace of this plan the counter is, a multiple of 8. HATTN_INVALID_ARGUMENT: null, or
 * no such counter. HATTN_UNSUPPORTED: this plan's runs do not count it. */
HATTN_API hattn_status hattn_plan_counter(const hattn_plan *plan, hattn_counter counter, uint64_t *byte_offset,
                                          hattn_error *error);

/* ---- Running --------------------------------------------------------------------------------------------------- */

/* Memory of the device: an address on CPU, CUDA and HIP; on OpenCL a cl_mem of the device's context, the offset alone
 * aligned. */
typedef struct hattn_buffer {
    void *data;
    uint64_t byte_offset;
} hattn_buffer;

/* The caller's own threads, instead of the device's: each of `size` threads makes the same call with its own rank
 * (0..size-1), all else equal: plan, arguments, what pointers point to. barrier returns in all of them once all have
 * entered. Every call with a team of more than one enters it twice, also a call that is refused: a rank that is
 * refused alone leaves the work to the others (whose results are whole) and hangs nobody, if its exec and team can
 * be read. The call of a rank may return when all are done. CPU: ranks from the device's max_threads on only wait.
 * Reference: one rank works. Others refuse a team. */
typedef struct hattn_team {
    int32_t size, rank;
    void (*barrier)(void *context);
    void *context;
} hattn_team;

typedef struct hattn_exec {
    uint32_t struct_size;
    /* CPU without a team: the most threads, this one included; 0: the device's max_threads, fewer for little work */
    int32_t num_threads;
    hattn_buffer workspace;  /* aligned to 256 bytes, offset included; initialised once by hattn_workspace_init */
    uint64_t workspace_size; /* bytes behind workspace */
    /* cudaStream_t, hipStream_t, in-order cl_command_queue (which the caller flushes); NULL: CUDA's default stream,
     * OpenCL's queue of hattn_device_info. CPU: ignored, calls are synchronous */
    void *stream;
    const hattn_team *team; /* NULL: none */
} hattn_exec;

/* Makes a workspace ready: zeroes its control region, enqueued on the stream. Once per workspace, and again after a
 * device error. Every run expects the control region zero and leaves it zero; the rest is scratch, so that plans may
 * share one workspace when their runs are ordered; on CPUs the plans may be of different devices.
 * HATTN_INVALID_ARGUMENT: null, misaligned, size 0. HATTN_DEVICE_ERROR. */
HATTN_API hattn_status hattn_workspace_init(hattn_device *device, hattn_buffer workspace, uint64_t size, void *stream,
                                            hattn_error *error);

/* All runs below check in O(1), never allocate, never wait for a device, never read device memory on the host, and
 * enqueue on exec->stream (graph capture is allowed). Results are bitwise repeatable for the same plan, args and
 * device, and the same for any number of threads. Selections are also batch invariant: a row keeps the same list alone,
 * among others, padded, with other pages or none, under a plan with larger maxima, on any backend, given its codes,
 * weights, norms and budget. On CPUs a run waits for nothing but units of work that other threads have begun. They
 * return HATTN_OK or
 *   HATTN_INVALID_ARGUMENT     a null or misaligned pointer, a wrong struct_size, a count outside 0..its maximum
 *   HATTN_WORKSPACE_TOO_SMALL
 *   HATTN_DEVICE_ERROR         the launch failed; faults of the kernels surface at the caller's next synchronisation
 * and have written nothing unless HATTN_OK or HATTN_DEVICE_ERROR. */

/* Which keys the rows see; all device memory, read by the kernels, so a captured graph may be replayed with new
 * contents.
 * Row x belongs to the sequence b with q_start[b] <= x < q_start[b+1]; it is token t = x - q_start[b] of T =
 * q_start[b+1] - q_start[b] (at most max_q_len), and its length, the number of keys it sees, is seq_len[b] - T + t + 1.
 * Lengths are clamped to 0..max_length. Rows at or past q_start[num_sequences] are padding: length 0.
 * Key j of sequence b is in page block_table[b][j / page_size], slot j % page_size; without pages in "page" b, slot j.
 * A page number outside the caller's pools is the caller's error: memory is read there, and written by append. */
typedef struct hattn_batch {
    int32_t num_sequences;    /* 0..max_sequences */
    int32_t num_rows;         /* 0..max_rows, padding included */
    int32_t q_len;            /* without q_start: tokens of every sequence, num_rows = num_sequences * q_len */
    int32_t reserved;         /* 0 */
    hattn_buffer q_start;     /* i32 [num_sequences + 1], rising from 0; null: row = b * q_len + t */
    hattn_buffer seq_len;     /* i32 [num_sequences], new tokens included */
    hattn_buffer block_table; /* i32; null without pages */
} hattn_batch;

typedef struct hattn_map_buffers {
    hattn_buffer weight[3]; /* linear: only [0] */
    hattn_buffer bias[3];   /* linear keys: [0] or null; linear queries: null; MLP: all three */
} hattn_map_buffers;

/* Encode keys into a code cache (prefill, or the new tokens of a step).
 *   z = map(k_new[t, g]) in fp32, code head c of KV head g = c * Hkv / Hc
 *   bit r = (z_r > 0), NaN gives 0; bit r is bit r % 32 of word r / 32, bits past code_bits are 0
 *   norm = fp16(sqrt(sum of squares of k_new[t, g])), rounded to nearest even
 * Slot s is page s / page_size, slot s % page_size (without pages: sequence s / max_length, position s % max_length).
 * Not written: any other slot. Two tokens in one slot: on CPUs one of them, code and norm, unspecified which; on
 * GPUs each word is one of theirs. Method: HATA, section 3; HashAttention, section 4. */
typedef struct hattn_encode_keys_args {
    uint32_t struct_size;
    int32_t num_tokens; /* >= 0, no maximum */
    hattn_buffer k_new;
    hattn_buffer k_scale; /* f32 [1] or [Hkv]; null: 1. Only fp8 may have it: keys are value * scale */
    hattn_map_buffers key_map;
    hattn_buffer slot_mapping; /* i64 [num_tokens], negative: skip; null: token t goes to slot t */
    hattn_buffer codes;        /* out */
    hattn_buffer norms;        /* out; null unless key_norms */
} hattn_encode_keys_args;
HATTN_API hattn_status hattn_encode_keys(const hattn_plan *plan, const hattn_encode_keys_args *args,
                                         const hattn_exec *exec, hattn_error *error);

/* Encode queries into integer weights; the group of s is its Hq/Hs query heads, each through the map of its code head.
 *   hamming:  w_r = sum over the group of (z_r > 0 ? +1 : -1), halved if the group is even     (HATA, section 3)
 *   weighted: u_r = sum over the group of z_r; w_r = rint(u_r * qmax / max|u|), ties to even;
 *             qmax = 2^(weight_bits-1) - 1; w = 0 if all u are 0 or any is not finite
 * With a floor or a tail also what one score is worth, in 1/1024 of a factor of 2 of probability:
 *   step = rint(2048 / ln 2 * slope * unit), in 0..32768; unit = 1 (hamming), or max|u| / qmax, and 0 where w = 0 (weighted)
 * With candidates also the same of each query head by itself: head_weights as weighted, with u its own z, and head_steps by its head_slopes. Steps of the
 * summed weights are then wanted by tails alone.
 * slope: nats of a key's probability that a score of one is worth where unit is 1, halved: softmax(slope * unit * sum w_r
 * (2 code_r - 1)) is the estimate of the group's mean attention (`hattn calibrate` fits it to a trace). Negative or NaN:
 * 0. */
typedef struct hattn_encode_queries_args {
    uint32_t struct_size;
    int32_t num_rows;
    hattn_buffer q;
    hattn_map_buffers query_map;
    hattn_buffer weights;                  /* out; all code_bits of every row, padding too */
    hattn_buffer slopes;                   /* f32; null without a floor or a tail; with candidates without a tail */
    hattn_buffer steps;                    /* out, likewise */
    hattn_buffer head_slopes;              /* f32; null without candidates */
    hattn_buffer head_weights, head_steps; /* out, likewise */
} hattn_encode_queries_args;
HATTN_API hattn_status hattn_encode_queries(const hattn_plan *plan, const hattn_encode_queries_args *args,
                                            const hattn_exec *exec, hattn_error *error);

/* Score every key of every row: larger is better.
 *   score = sum over r of w_r * code_r + (sum of |w_r| with w_r < 0)
 *         = sum over planes p of 2^p popcount((code ^ m) & plane_p)
 *   with norms: f32((2 * score - sum|w|) * norm), one rounding
 * Weights are what hattn_encode_queries of the plan can give; an int8 of -128 counts as -127.
 * code head of s: s * Hc / Hs. Guarantees: exact, the same on every backend. Not written: positions at or past the
 * row's length. */
typedef struct hattn_score_args {
    uint32_t struct_size;
    uint32_t reserved;
    hattn_batch batch;
    hattn_buffer weights, codes;
    hattn_buffer norms;  /* null unless key_norms */
    hattn_buffer scores; /* out */
} hattn_score_args;
HATTN_API hattn_status hattn_score(const hattn_plan *plan, const hattn_score_args *args, const hattn_exec *exec,
                                   hattn_error *error);

/* Exact top-k: with length n and budget B (clamped to 0..k), keeps min(n, max(B, num_sink + num_recent)) positions:
 * the first num_sink, the last num_recent, and of the others those with the largest score, equal scores by smallest
 * position (-0 equals +0, NaN ranks below everything). Guarantees: that one list on every backend, ascending, -1
 * from counts to k.
 * With a floor the budget is the most that are kept. In integers, forced positions left out throughout: S the largest
 * score, T(x) = floor(2^(30 - i/64)) >> (e >> 10) with e = (S - x) * step and i = e >> 4 & 63, 0 where e >> 10 is above 30;
 * b the least score that the budget would keep. An estimate of the sum of T over all positions is
 *   Z = sum of T over scores > b, and 61 times the sum of T over positions j of scores <= b with j % 61 == 0,
 * or the sum over all where the budget keeps all. Kept are those of the budget's list with T * 2^32 >= tau * Z, tau =
 * rint(min_probability * 2^32), and, until with forced ones there are min_k, the next best; counts says how many. (A floor
 * maximises the mean mass that is kept of a mean number of rows; the same mass for all rows does not.) Steps are in 0..32768;
 * with others the list is any that the budget allows.
 * With a tail, what attend is to make it of: shares, in the order of indices, T of each kept position, and bit 31 set in
 * anchors: those of the kept with 0 < T < 4 times the least T above 0, or all with T above 0 if these are fewer than 8. 0 in
 * forced positions, and past counts. rests: Z less the sum of the kept T, at least 0. Both are 0 where all positions are
 * kept, or forced ones alone.
 * With candidates, the num_candidates best by score of the positions that are not forced, or all of these, take their place: for each query head
 * h of the selection, with scores and T by its own weights and step, S the largest of the candidates,
 *   Z_h = sum of T_h over the candidates;  p_j = sum over h of floor(T_hj * floor(2^62 / Z_h) / 2^38)
 * and the budget keeps those with the largest p, equal ones by smallest position; with a floor, of these those with p * 2^8 >= G tau (G: query heads of
 * the selection) and min_k as before. Shares are T_hj, of each query head; anchors, of all heads alike, are the kept with 0 < p < 4 times the least p above
 * 0, or all with p above 0, less those of which T_hj is 0. With O the estimate of the sum of T of what is no candidate, as above by the summed
 * scores and the candidates' list, and I the sum of T by them of candidates that are not kept:
 *   rest_h = r + floor(r * f / 2^8),  r = Z_h less the sum of the kept T_h,  f = min(floor(2^8 O / I), 19 * 2^8), 0 where I is 0
 * Method: sums before the exponential lose what single heads look for. */
typedef struct hattn_topk_args {
    uint32_t struct_size;
    uint32_t reserved;
    hattn_batch batch;                            /* block_table is read with candidates only */
    hattn_buffer scores;                          /* scores of forced positions are not read */
    hattn_buffer budgets;                         /* null: problem.k for all */
    hattn_buffer indices, counts;                 /* out */
    hattn_buffer steps;                           /* of hattn_encode_queries; null without a floor or a tail */
    hattn_buffer shares, rests;                   /* out; null without a tail */
    hattn_buffer codes, head_weights, head_steps; /* null without candidates */
} hattn_topk_args;
HATTN_API hattn_status hattn_topk(const hattn_plan *plan, const hattn_topk_args *args, const hattn_exec *exec,
                                  hattn_error *error);

/* Softmax attention over selected positions; fp32 accumulation.
 *   x_j = cap(scale * q·k_j);  out = sum of e^x_j v_j / D;  lse = ln D;  D = sum of e^x_j (+ e^sink_logit of the head)
 * Empty selection: out 0, lse -inf (with a sink logit: lse = the logit). Only selected rows of K and V are read.
 * Without indices every position below the row's length is attended to: dense decode attention.
 * With a tail, which shares and rests turn on, those that are not selected are taken together as one more token:
 *   R = min(tail * E(anchors) * rest / T(anchors), E(all) * rest / T(all)), 0 where T is 0
 *   out = (sum of e^x_j v_j + R vbar) / (D + R);  lse = ln(D + R)
 * E: sum of e^x_j, T: sum of shares, "all" being the selected with shares above 0; vbar = the mean of the row's values, out of
 * value_sums, and the V cache from value_lengths on, up to the row's length; from 0 if value_lengths is outside 0..the row's
 * length. What is below the floor weighs little each, and much together; anchors, near it, say what a share is worth.
 * With min_value_weight, too, vbar takes the place of v_j where w_j is below it, and this row of V is not read:
 *   w_j = the mean of e^x_j / D over the query heads of the selection (0 of a head without logits; NaN is below nothing)
 * What is left out moves out by less than w_j times the heads times v_j's distance from vbar. Method: V-skip.
 * Parts of a context that are attended to apart have each their own tail, and are merged as ever. */
typedef struct hattn_attend_args {
    uint32_t struct_size;
    uint32_t reserved;
    hattn_batch batch;
    hattn_buffer q, k_cache, v_cache;
    hattn_buffer k_scale, v_scale; /* f32 [1] or [Hkv]; null: 1. Only fp8 may have them: values are cache * scale */
    hattn_buffer sink_logits;      /* f32 [Hq]; null: none */
    hattn_buffer indices,
        counts; /* both or none; distinct positions inside the row's length, any order, counts in 0..k */
    hattn_buffer out;
    hattn_buffer lse;           /* may be null */
    hattn_buffer shares, rests; /* of hattn_topk; both null: no tail */
    hattn_buffer value_sums, value_lengths,
        value_slots; /* as in hattn_sum_values; null where these are, and not read */
} hattn_attend_args;
HATTN_API hattn_status hattn_attend(const hattn_plan *plan, const hattn_attend_args *args, const hattn_exec *exec,
                                    hattn_error *error);

/* Join attention over disjoint parts of the keys (split KV, context parallel): L = ln(sum of e^lse_p), out = sum of
 * e^(lse_p - L) out_p. A part with lse -inf counts nothing, and its out is not read as a number; all parts so: out
 * 0, lse -inf. */
typedef struct hattn_merge_args {
    uint32_t struct_size;
    int32_t num_parts; /* >= 1 */
    int32_t num_rows;
    uint32_t reserved;
    hattn_buffer partial_out, partial_lse;
    hattn_buffer out;
    hattn_buffer lse; /* may be null */
} hattn_merge_args;
HATTN_API hattn_status hattn_merge(const hattn_plan *plan, const hattn_merge_args *args, const hattn_exec *exec,
                                   hattn_error *error);

/* Keep the sums of values that tails need: after prefill, and before each step, what hattn_decode with append does itself. For
 * each sequence of the batch that has rows, with T tokens in it, and each KV head:
 *   value_sums += sum of rint(v_j * 2^24), v_j clamped to +-65536, NaN 0, positions j from value_lengths to seq_len - T
 *   value_lengths = seq_len - T, clamped to 0..max_length
 * and from 0, value_sums having been 0, where value_lengths is negative or above. The tokens of the step stay outside, so that
 * a caller drops those that were rejected by lowering seq_len, and no more; who lowers it further, or writes other values
 * below value_lengths, sets these lengths to 0 (sums then are not read). Guarantees: exact, the same on every backend, in
 * however many calls. fp8 values are without their scale. */
typedef struct hattn_sum_values_args {
    uint32_t struct_size;
    uint32_t reserved;
    hattn_batch batch;
    hattn_buffer v_cache;
    hattn_buffer value_slots; /* i32 [sequence]: the state of each sequence, all of them different; null: its number */
    hattn_buffer value_sums, value_lengths; /* in and out */
} hattn_sum_values_args;
HATTN_API hattn_status hattn_sum_values(const hattn_plan *plan, const hattn_sum_values_args *args,
                                        const hattn_exec *exec, hattn_error *error);

/* One decode step: encode queries, score, top-k, attend; with append, first the rows' own keys, which must already
 * be in the K cache, are encoded into codes (and norms). Weights and selections are bit-identical to the same plan's
 * separate calls; out and lse are within the numerics contract of docs/numerics.md. Speculative tokens that were
 * rejected are dropped by lowering seq_len. Outputs that may be null are for those who want to look; weights and steps
 * are of all rows, padding too. */
typedef struct hattn_decode_args {
    uint32_t struct_size;
    int32_t append; /* 0 or 1 */
    hattn_batch batch;
    hattn_buffer q, k_cache, v_cache, codes, norms, k_scale, v_scale, sink_logits, budgets; /* as in the calls above */
    hattn_map_buffers key_map;                                                              /* read only with append */
    hattn_map_buffers query_map;
    hattn_buffer out;
    hattn_buffer lse;                                    /* may be null */
    hattn_buffer weights, indices, counts;               /* out, each may be null */
    hattn_buffer slopes;                                 /* as in hattn_encode_queries */
    hattn_buffer steps;                                  /* out, may be null */
    hattn_buffer value_sums, value_lengths, value_slots; /* with a tail: as in hattn_sum_values, written with append */
    hattn_buffer head_slopes;                            /* as in hattn_encode_queries */
    hattn_buffer head_weights, head_steps;               /* out, each may be null */
} hattn_decode_args;
HATTN_API hattn_status hattn_decode(const hattn_plan *plan, const hattn_decode_args *args, const hattn_exec *exec,
                                    hattn_error *error);

#ifdef __cplusplus
}
#endif
#endif
