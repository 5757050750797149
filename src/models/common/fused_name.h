/* fused_name.h - a tensor in another layout's spelling, made of rows of several of ours.
 *
 *     to_q, to_k, to_v  ──►  {"attention.qkv.weight", {"to_q.weight", "to_k.weight", "to_v.weight"}, 3}
 *
 * For writing; reading goes the other way by mica_weights_split. */
#ifndef MICA_MODELS_COMMON_FUSED_NAME_H
#define MICA_MODELS_COMMON_FUSED_NAME_H

#define MICA_FUSED_NAME 192

typedef struct mica_fused_name {
    char name[MICA_FUSED_NAME];
    char parts[3][MICA_FUSED_NAME]; /* ours, in the order of their rows */
    int count;                      /* 1: renamed; 0: written with another one */
} mica_fused_name;

#endif
