/* Weights of DINOv2 with registers from a safetensors file, under the names of the published hub checkpoints
 * (cls_token, blocks.0.attn.qkv.weight, ...) or of the `dinov2-with-registers-*` models of Hugging Face
 * (embeddings.cls_token, encoder.layer.0.attention.attention.query.weight, ...). */
#pragma once
#include "core/ctx.h"
#include "model/dinov2.h"

/* Width, blocks, registers and MLP come from the shapes; a head is 64 wide, as in all published sizes, unless the
 * file's metadata say num_attention_heads. Positions are resized to side x side patches. The slab is made here, on the
 * device and in the dtype of c; *weights holds it (arena_free after dinov2_free). On failure nothing is left to free.
 */
bool dinov2_load(const char *path, int side, ctx *c, dinov2 *m, arena *weights, status *st);
