/* Classify images with a bundle of hwautoml: load, classify, free.
 *
 * Needs libtvm_runtime and libtvm_ffi, and no Python. Every function that can fail writes a sentence for a
 * person into `error` (at most `error_size` bytes, always ended by 0). A model is used by one thread at a time.
 */
#ifndef HWAUTOML_H_
#define HWAUTOML_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hwautoml_model hwautoml_model;

/* The model in `bundle`, a folder with manifest.json and model_tvm.so; NULL when it cannot be loaded.
 * `num_threads` 0: as when the latency in the manifest was measured. It holds for the whole process, and the
 * first model decides. */
hwautoml_model *hwautoml_load(const char *bundle, int num_threads, char *error, size_t error_size);

/* How many numbers the model gives: one for each class, unless its answer is another. */
int hwautoml_num_classes(const hwautoml_model *model);

/* What the numbers mean. "ranking": probabilities, of which the largest count. "above": probabilities, those count
 * that reach hwautoml_threshold. "values": numbers in hwautoml_unit. Owned by the model. */
const char *hwautoml_answer(const hwautoml_model *model);

float hwautoml_threshold(const hwautoml_model *model, int index);

/* UTF-8, possibly empty. */
const char *hwautoml_unit(const hwautoml_model *model);

/* UTF-8, owned by the model; NULL where there is no such class. */
const char *hwautoml_class_name(const hwautoml_model *model, int index);

/* `pixels`: height x width x channels bytes, rows first, channels 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA), any
 * size: composed, made square and resized as in training. Writes hwautoml_num_classes numbers;
 * 0 when done, else not 0. */
int hwautoml_classify(hwautoml_model *model, const uint8_t *pixels, int width, int height, int channels,
                      float *probabilities, char *error, size_t error_size);

/* The same for grey pictures of more than 8 bits, scaled as in training: height x width values, as the file has them. */
int hwautoml_classify_deep(hwautoml_model *model, const float *pixels, int width, int height, float *probabilities,
                           char *error, size_t error_size);

/* NULL is fine. */
void hwautoml_free(hwautoml_model *model);

#ifdef __cplusplus
}
#endif

#endif /* HWAUTOML_H_ */
