/* trace_same.c - whether two traces hold the same numbers under a name.
 *
 *     trace_same A.safetensors B.safetensors NAME [RELATIVE_L2]
 *
 * Byte by byte, or within a relative L2. Status 1 and one line where they differ. */
#include "format/weights.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int stop(const char *what, const char *detail)
{
    fprintf(stderr, "trace_same: %s: %s\n", what, detail);
    return 1;
}

static double distance(const mica_tensor *a, const mica_tensor *b)
{
    double diff = 0.0, norm = 0.0;
    for (int64_t i = 0; i < mica_tensor_count(a); i++) {
        const double x = (double)mica_tensor_read_f32(a, i), y = (double)mica_tensor_read_f32(b, i);
        diff += (x - y) * (x - y);
        norm += x * x;
    }
    return norm > 0.0 ? sqrt(diff / norm) : sqrt(diff);
}

int main(int argc, char **argv)
{
    mica_weights *w[2] = {NULL, NULL};
    const mica_tensor *t[2];
    mica_err err = {0};
    if (argc < 4)
        return stop("usage", "trace_same A B NAME [RELATIVE_L2]");
    for (int i = 0; i < 2; i++) {
        if (mica_weights_open(&w[i], argv[1 + i], &err))
            return stop(argv[1 + i], err.text);
        t[i] = mica_weights_find(w[i], argv[3]);
        if (!t[i])
            return stop(argv[1 + i], "does not hold that name");
    }
    if (t[0]->dtype != t[1]->dtype || mica_tensor_count(t[0]) != mica_tensor_count(t[1]))
        return stop(argv[3], "another type or size");
    if (argc > 4 ? !(distance(t[0], t[1]) <= strtod(argv[4], NULL))
                 : memcmp(t[0]->data, t[1]->data, mica_tensor_size(t[0])) != 0)
        return stop(argv[3], "differs");
    printf("%s: the same, %lld numbers\n", argv[3], (long long)mica_tensor_count(t[0]));
    for (int i = 0; i < 2; i++)
        mica_weights_close(&w[i]);
    return 0;
}
