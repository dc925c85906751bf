/* SPDX-License-Identifier: Apache-2.0
 * The header as C99, C11 and C++17, pedantically; the ABI's sizes, offsets, numbers; a program linked as a user's is.
 */
#include "api/hattn.h"

#include <string.h>

#if defined(__cplusplus)
#define FROZEN(condition) static_assert(condition, #condition)
#elif __STDC_VERSION__ >= 201112L
#define FROZEN(condition) _Static_assert(condition, #condition)
#else
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define FROZEN(condition) typedef char JOIN(frozen_, __LINE__)[(condition) ? 1 : -1]
#endif

/* Structs only grow at their end, and then struct_size tells old callers from new ones. */
FROZEN(sizeof(hattn_error) == 512);
FROZEN(sizeof(hattn_backend_info) == 284);
FROZEN(sizeof(hattn_device_options) == 48);
FROZEN(sizeof(hattn_device_info) == 208);
FROZEN(sizeof(hattn_tensor) == 32);
FROZEN(sizeof(hattn_map) == 88);
FROZEN(sizeof(hattn_problem) == 1096);
FROZEN(sizeof(hattn_buffer) == 16);
FROZEN(sizeof(hattn_team) == 24);
FROZEN(sizeof(hattn_exec) == 48);
FROZEN(sizeof(hattn_batch) == 64);
FROZEN(sizeof(hattn_map_buffers) == 96);
FROZEN(sizeof(hattn_encode_keys_args) == 184);
FROZEN(sizeof(hattn_encode_queries_args) == 216);
FROZEN(sizeof(hattn_score_args) == 136);
FROZEN(sizeof(hattn_topk_args) == 232);
FROZEN(sizeof(hattn_attend_args) == 312);
FROZEN(sizeof(hattn_merge_args) == 80);
FROZEN(sizeof(hattn_sum_values_args) == 136);
FROZEN(sizeof(hattn_decode_args) == 616);

/* Late fields: nothing before them moved. */
FROZEN(offsetof(hattn_error, text) == 4);
FROZEN(offsetof(hattn_backend_info, text) == 28);
FROZEN(offsetof(hattn_device_options, native_device) == 40);
FROZEN(offsetof(hattn_device_info, isa) == 152);
FROZEN(offsetof(hattn_map, bias_stride) == 64);
FROZEN(offsetof(hattn_problem, scale) == 88);
FROZEN(offsetof(hattn_problem, key_map) == 104);
FROZEN(offsetof(hattn_problem, q) == 280);
FROZEN(offsetof(hattn_problem, budgets) == 760);
FROZEN(offsetof(hattn_problem, min_probability) == 792);
FROZEN(offsetof(hattn_problem, steps) == 832);
FROZEN(offsetof(hattn_problem, tail) == 864);
FROZEN(offsetof(hattn_problem, num_candidates) == 868);
FROZEN(offsetof(hattn_problem, shares) == 872);
FROZEN(offsetof(hattn_problem, value_lengths) == 968);
FROZEN(offsetof(hattn_problem, head_weights) == 1000);
FROZEN(offsetof(hattn_problem, head_steps) == 1064);
FROZEN(offsetof(hattn_encode_queries_args, slopes) == 136);
FROZEN(offsetof(hattn_encode_queries_args, head_slopes) == 168);
FROZEN(offsetof(hattn_topk_args, steps) == 136);
FROZEN(offsetof(hattn_topk_args, shares) == 152);
FROZEN(offsetof(hattn_topk_args, codes) == 184);
FROZEN(offsetof(hattn_attend_args, shares) == 232);
FROZEN(offsetof(hattn_attend_args, value_slots) == 296);
FROZEN(offsetof(hattn_sum_values_args, value_slots) == 88);
FROZEN(offsetof(hattn_decode_args, value_sums) == 520);
FROZEN(offsetof(hattn_decode_args, slopes) == 488);
FROZEN(offsetof(hattn_decode_args, head_slopes) == 568);
FROZEN(offsetof(hattn_exec, team) == 40);
FROZEN(offsetof(hattn_batch, block_table) == 48);
FROZEN(offsetof(hattn_encode_keys_args, norms) == 168);
FROZEN(offsetof(hattn_encode_queries_args, weights) == 120);
FROZEN(offsetof(hattn_score_args, scores) == 120);
FROZEN(offsetof(hattn_topk_args, counts) == 120);
FROZEN(offsetof(hattn_attend_args, lse) == 216);
FROZEN(offsetof(hattn_merge_args, lse) == 64);
FROZEN(offsetof(hattn_decode_args, key_map) == 216);
FROZEN(offsetof(hattn_decode_args, counts) == 472);

/* struct_size is what a library reads first. */
FROZEN(offsetof(hattn_problem, struct_size) == 0 && sizeof(((hattn_problem *)0)->struct_size) == 4);
FROZEN(offsetof(hattn_exec, struct_size) == 0 && sizeof(((hattn_exec *)0)->struct_size) == 4);

FROZEN(sizeof(hattn_status) == 4 && HATTN_OK == 0 && HATTN_INVALID_ARGUMENT == 1 && HATTN_UNSUPPORTED == 2);
FROZEN(HATTN_NO_DEVICE == 3 && HATTN_OUT_OF_MEMORY == 4 && HATTN_WORKSPACE_TOO_SMALL == 5 && HATTN_DEVICE_ERROR == 6);
FROZEN(HATTN_F32 == 1 && HATTN_F16 == 2 && HATTN_BF16 == 3 && HATTN_F8_E4M3 == 4 && HATTN_I8 == 5 && HATTN_U16 == 6);
FROZEN(HATTN_I32 == 7 && HATTN_U32 == 8 && HATTN_I64 == 9 && HATTN_MEMORY_DEVICE == 0 && HATTN_MEMORY_PINNED_HOST == 1);
FROZEN(HATTN_MAP_LINEAR == 1 && HATTN_MAP_MLP == 2 && HATTN_SCORE_HAMMING == 1 && HATTN_SCORE_WEIGHTED == 2);
FROZEN(HATTN_CODE_LAYOUT_KEY_MAJOR == 0);

int main(void)
{
    hattn_problem problem, complete;
    hattn_device *device = NULL;
    hattn_error error;
    memset(&problem, 0, sizeof(problem));
    problem.struct_size = complete.struct_size = sizeof(problem);
    problem.num_kv_heads = 3;
    if (hattn_problem_complete(&problem, &complete, &error) != HATTN_OK || complete.num_code_heads != 3 ||
        hattn_version() != HATTN_VERSION_MAJOR * 10000 + HATTN_VERSION_MINOR * 100 + HATTN_VERSION_PATCH)
        return 1;
    if (hattn_device_open(NULL, &device, &error) != HATTN_OK)
        return 2;
    hattn_device_close(device);
    return 0;
}
