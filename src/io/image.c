#include "io/image.h"
#include "io/atomic_file.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <jpeglib.h>
#include <png.h>

/* Larger pictures than this are no textures or views; a hostile header may claim anything. */
enum { MAX_SIDE = 1 << 15 };
#define MAX_PIXELS (1ll << 28)
#define MAX_FILE (1ll << 30)

void image_free(image *im) {
    free(im->pixel);
    *im = (image){0};
}

static bool alloc_pixels(image *im, int64_t w, int64_t h, int channels, const char *name, status *st) {
    if (w < 1 || h < 1 || w > MAX_SIDE || h > MAX_SIDE || w * h > MAX_PIXELS)
        return status_set(st, ST_DATA, "%s: an image of %lldx%lld pixels is not accepted", name, (long long)w,
                          (long long)h);
    *im = (image){.width = (int)w, .height = (int)h, .channels = channels};
    im->pixel = malloc((size_t)(w * h * channels));
    CHECK(im->pixel, "no memory for an image of %lldx%lldx%d", (long long)w, (long long)h, channels);
    return true;
}

/* ---- PNG
 * ----------------------------------------------------------------------------------------------------------
 */

static bool decode_png(const uint8_t *bytes, int64_t n, const char *name, image *im, status *st) {
    png_image p = {.version = PNG_IMAGE_VERSION};
    if (!png_image_begin_read_from_memory(&p, bytes, (size_t)n)) goto bad;
    /* A palette and 16 bits come out as plain 8-bit samples; grey with alpha becomes RGBA. */
    int channels = p.format & PNG_FORMAT_FLAG_ALPHA ? 4 : p.format & PNG_FORMAT_FLAG_COLOR ? 3 : 1;
    p.format = channels == 4 ? PNG_FORMAT_RGBA : channels == 3 ? PNG_FORMAT_RGB : PNG_FORMAT_GRAY;
    if (!alloc_pixels(im, p.width, p.height, channels, name, st)) {
        png_image_free(&p);
        return false;
    }
    if (png_image_finish_read(&p, NULL, im->pixel, 0, NULL) && !(p.warning_or_error & PNG_IMAGE_ERROR)) return true;
bad:
    image_free(im);
    png_image_free(&p);
    return status_set(st, ST_DATA, "%s: PNG cannot be read: %s", name, p.message);
}

bool image_encode_png(const image *im, uint8_t **bytes, int64_t *n, status *st) {
    CHECK(im->pixel && im->width > 0 && im->height > 0 && (im->channels == 1 || im->channels == 3 || im->channels == 4),
          "image of %dx%dx%d", im->width, im->height, im->channels);
    png_image        p = {.version = PNG_IMAGE_VERSION,
                          .width = (png_uint_32)im->width,
                          .height = (png_uint_32)im->height,
                          .format = im->channels == 4   ? PNG_FORMAT_RGBA
                                    : im->channels == 3 ? PNG_FORMAT_RGB
                                                        : PNG_FORMAT_GRAY};
    png_alloc_size_t cap = PNG_IMAGE_PNG_SIZE_MAX(p);
    uint8_t         *out = malloc(cap);
    CHECK(out, "no memory for a PNG of %dx%d", im->width, im->height);
    if (!png_image_write_to_memory(&p, out, &cap, 0, im->pixel, 0, NULL)) {
        free(out);
        return status_set(st, ST_INTERNAL, "PNG encoding failed: %s", p.message);
    }
    uint8_t *fit = realloc(out, cap);
    *bytes = fit ? fit : out;
    *n = (int64_t)cap;
    return true;
}

/* ---- JPEG
 * ---------------------------------------------------------------------------------------------------------
 */

typedef struct {
    struct jpeg_error_mgr base;
    jmp_buf               back;
    char                  text[JMSG_LENGTH_MAX];
} jpeg_trouble;

static void jpeg_fail(j_common_ptr c) {
    jpeg_trouble *t = (jpeg_trouble *)c->err;
    c->err->format_message(c, t->text);
    longjmp(t->back, 1);
}

static void jpeg_silent(j_common_ptr c) {
    (void)c;
}

static bool decode_jpeg(const uint8_t *bytes, int64_t n, const char *name, image *im, status *st) {
    struct jpeg_decompress_struct c;
    jpeg_trouble                  trouble;
    c.err = jpeg_std_error(&trouble.base);
    trouble.base.error_exit = jpeg_fail;
    trouble.base.output_message = jpeg_silent;
    if (setjmp(trouble.back)) {
        jpeg_destroy_decompress(&c);
        image_free(im);
        return status_set(st, ST_DATA, "%s: JPEG cannot be read: %s", name, trouble.text);
    }
    jpeg_create_decompress(&c);
    jpeg_mem_src(&c, bytes, (unsigned long)n);
    jpeg_read_header(&c, TRUE);
    c.out_color_space = c.num_components == 1 ? JCS_GRAYSCALE : JCS_RGB;
    if (!alloc_pixels(im, c.image_width, c.image_height, c.num_components == 1 ? 1 : 3, name, st)) {
        jpeg_destroy_decompress(&c);
        return false;
    }
    jpeg_start_decompress(&c);
    while (c.output_scanline < c.output_height) {
        JSAMPROW row = im->pixel + (size_t)c.output_scanline * (size_t)im->width * (size_t)im->channels;
        jpeg_read_scanlines(&c, &row, 1);
    }
    jpeg_finish_decompress(&c);
    jpeg_destroy_decompress(&c);
    return true;
}

/* ---- either
 * ------------------------------------------------------------------------------------------------------- */

bool image_decode(const uint8_t *bytes, int64_t n, const char *name, image *im, status *st) {
    *im = (image){0};
    if (n > 8 && !png_sig_cmp(bytes, 0, 8)) return decode_png(bytes, n, name, im, st);
    if (n > 3 && bytes[0] == 0xFF && bytes[1] == 0xD8 && bytes[2] == 0xFF) return decode_jpeg(bytes, n, name, im, st);
    return status_set(st, ST_DATA, "%s: is neither PNG nor JPEG: convert it to PNG", name);
}

bool image_read(const char *path, image *im, status *st) {
    uint8_t *bytes = NULL;
    int64_t  n = 0;
    *im = (image){0};
    if (!read_whole_file(path, MAX_FILE, &bytes, &n, st)) return false;
    bool ok = image_decode(bytes, n, path, im, st);
    free(bytes);
    return ok;
}

bool image_write_png(const char *path, const image *im, status *st) {
    uint8_t *bytes = NULL;
    int64_t  n = 0;
    if (!image_encode_png(im, &bytes, &n, st)) return false;
    bool ok = atomic_write(path, bytes, n, st);
    free(bytes);
    return ok;
}
