/* TensorBoard event files: scalars and images. A record is
 *   u64 length | u32 masked CRC32C of the length | bytes | u32 masked CRC32C of the bytes
 * and the bytes are an Event message, packed here by hand (four message types, six field kinds). */
#pragma once
#include "core/base.h"

typedef struct tensorboard tensorboard;

/* Starts events.out.tfevents.<seconds>.<host>.<pid> in the folder, which is created. */
tensorboard *tensorboard_open(const char *folder, status *st);
void         tensorboard_close(tensorboard *t);
bool         tensorboard_scalar(tensorboard *t, int64_t step, const char *tag, double value, status *st);
bool         tensorboard_image(tensorboard *t, int64_t step, const char *tag, int width, int height, int channels,
                               const uint8_t *png, int64_t png_bytes, status *st);

uint32_t crc32c(const void *data, int64_t n);
uint32_t crc32c_masked(const void *data, int64_t n); /* rotated right by 15 plus 0xa282ead8 */
