/* Classifies pictures: reads PGM and PPM files of any size, and prints what the model takes them for.
 *
 * usage: classify [FILE...]          the pictures; none: some that are written to target/ from the digits' test set
 *        MODEL=PATH classify ...     another model with an input of [batch, channels, height, width] floats
 *
 * What it shows:
 * - Asking a model what it wants: blaze_model_info is JSON; the few values that are needed, the shape of its first input, are
 *   found by a function of ten lines. (A host that has a JSON library uses that.)
 * - Getting there from real files: P2 and P5 (grey) and P3 and P6 (colour), with comments, up to 16 bits a sample; whatever
 *   is wrong with a file is said with its name, and the others are classified all the same. Sizes are checked before
 *   memory is taken for them: a header is nobody's promise.
 * - Scaling to the model's size by averaging the area that each of its pixels covers, which is right for making pictures
 *   smaller; colour becomes grey by the weights of ITU-R BT.601 if the model has one channel.
 * - One request for each picture, all submitted before the first answer is awaited, so that the engine joins them into
 *   batches; user_data says which one an event is for. A picture that the model refuses does not disturb the others.
 *
 * The digits' model wants 1 for ink and 0 for paper, and pictures of writing are dark on light: so unless
 * MODEL is set, light and dark are exchanged if the picture's border is light.
 */
#include <blaze.h>
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_SIDE = 16384, MAX_PIXELS = 1 << 26, MAX_INPUT = 4096, TOP = 3, SAMPLES = 6 };

struct picture {
    int width, height, channels;
    float *samples; /* 0 to 1, channels side by side, the top row first */
};

struct shape {
    int channels, height, width;
};

/* ---- files -------------------------------------------------------------------------------------------------------- */

static int complain(const char *path, const char *what) {
    fprintf(stderr, "%s: %s\n", path, what);
    return -1;
}

/* The next number of a header or of a plain file, after space and comments; -1: there is none. */
static long read_number(FILE *file) {
    int c = getc(file);
    while (isspace(c) || c == '#') {
        if (c == '#')
            while (c != '\n' && c != EOF) c = getc(file);
        else
            c = getc(file);
    }
    if (!isdigit(c)) return -1;
    long value = 0;
    for (; isdigit(c); c = getc(file)) {
        value = 10 * value + (c - '0');
        if (value > 1000000) return -1;
    }
    return c == EOF || isspace(c) ? value : -1; /* one space has been eaten, as a binary file wants it */
}

static int read_samples(FILE *file, const char *path, int plain, long most, size_t count, float *samples) {
    for (size_t i = 0; i < count; i++) {
        long value;
        if (plain) {
            value = read_number(file);
        } else {
            int c = getc(file), d = most > 255 ? getc(file) : 0;
            value = c == EOF || d == EOF ? -1 : most > 255 ? c * 256L + d : c;
        }
        if (value < 0) return complain(path, "the file ends early, or has something else than numbers in it");
        if (value > most) return complain(path, "a sample is larger than the header says");
        samples[i] = (float)value / (float)most;
    }
    return 0;
}

/* Reads a picture; 0, or -1 after saying what is wrong. The caller frees its samples. */
static int read_picture(const char *path, struct picture *picture) {
    FILE *file = fopen(path, "rb");
    picture->samples = NULL;
    if (!file) {
        perror(path);
        return -1;
    }
    int result = -1, p = getc(file), kind = getc(file);
    if (p != 'P' || !(kind == '2' || kind == '3' || kind == '5' || kind == '6')) {
        complain(path, "not a PGM or PPM file (P2, P3, P5 or P6)");
    } else {
        long width = read_number(file), height = read_number(file), most = read_number(file);
        if (width < 1 || height < 1 || width > MAX_SIDE || height > MAX_SIDE) {
            complain(path, "width and height must be 1 to 16384");
        } else if (width * height > MAX_PIXELS) {
            complain(path, "more than 2^26 pixels");
        } else if (most < 1 || most > 65535) {
            complain(path, "the largest sample must be 1 to 65535");
        } else {
            picture->width = (int)width, picture->height = (int)height;
            picture->channels = kind == '3' || kind == '6' ? 3 : 1;
            size_t count = (size_t)width * (size_t)height * (size_t)picture->channels;
            picture->samples = malloc(count * sizeof *picture->samples);
            if (!picture->samples) complain(path, "too large for this machine's memory");
            else result = read_samples(file, path, kind < '4', most, count, picture->samples);
        }
    }
    fclose(file);
    if (result) free(picture->samples);
    return result;
}

/* ---- from pictures to inputs -------------------------------------------------------------------------------------- */

static float sample(const struct picture *picture, int x, int y, int channel, int channels) {
    const float *pixel = picture->samples + ((size_t)y * (size_t)picture->width + (size_t)x) * (size_t)picture->channels;
    if (picture->channels == 1) return pixel[0];
    if (channels == 1) return 0.299f * pixel[0] + 0.587f * pixel[1] + 0.114f * pixel[2];
    return pixel[channel];
}

/* The mean of what the area from x0, y0 to x1, y1 covers, parts of pixels counted as parts. */
static float mean_of_area(const struct picture *picture, float x0, float y0, float x1, float y1, int channel, int channels) {
    float sum = 0, area = 0;
    for (int y = (int)y0; y < picture->height && (float)y < y1; y++) {
        float part_y = fminf(y1, (float)(y + 1)) - fmaxf(y0, (float)y);
        for (int x = (int)x0; x < picture->width && (float)x < x1; x++) {
            float part = part_y * (fminf(x1, (float)(x + 1)) - fmaxf(x0, (float)x));
            sum += part * sample(picture, x, y, channel, channels), area += part;
        }
    }
    return area > 0 ? sum / area : 0;
}

/* Fills the model's input, channel by channel. */
static void scale(const struct picture *picture, struct shape shape, float *input) {
    float step_x = (float)picture->width / (float)shape.width, step_y = (float)picture->height / (float)shape.height;
    for (int channel = 0; channel < shape.channels; channel++)
        for (int y = 0; y < shape.height; y++)
            for (int x = 0; x < shape.width; x++)
                *input++ = mean_of_area(picture, (float)x * step_x, (float)y * step_y, (float)(x + 1) * step_x,
                                        (float)(y + 1) * step_y, channel, shape.channels);
}

/* Exchanges light and dark if the left and right borders are light: ink is 1 for the digits' model, and paper 0. */
static void ink_is_one(struct shape shape, float *input) {
    float border = 0;
    for (int y = 0; y < shape.height; y++) border += input[y * shape.width] + input[y * shape.width + shape.width - 1];
    if (border / (float)(2 * shape.height) < 0.5f) return;
    for (int i = 0; i < shape.channels * shape.height * shape.width; i++) input[i] = 1.0f - input[i];
}

/* ---- the model ---------------------------------------------------------------------------------------------------- */

static void require(const char *what, blaze_status status, const char *why) {
    if (status == BLAZE_STATUS_OK) return;
    fprintf(stderr, "%s: %s: %s\n", what, blaze_status_name(status), why ? why : "");
    exit(1);
}

/* The model's first input must be [any, channels, height, width] of floats. */
static struct shape read_shape(blaze_engine *engine, blaze_model model) {
    static char info[65536];
    struct shape shape = {0, 0, 0};
    require("model", blaze_model_info(engine, model, info, sizeof info, NULL), "its description is too long");
    const char *inputs = strstr(info, "\"inputs\":"), *found = inputs ? strstr(inputs, "\"shape\":[") : NULL;
    const char *sizes = found ? strchr(found, ',') : NULL; /* the first axis is the batch */
    if (!sizes || sscanf(sizes, ",%d,%d,%d]", &shape.channels, &shape.height, &shape.width) != 3 ||
        !strstr(inputs, "\"dtype\":\"f32\"") || (shape.channels != 1 && shape.channels != 3) || shape.height < 1 ||
        shape.width < 1 || shape.height > MAX_INPUT || shape.width > MAX_INPUT) {
        fprintf(stderr, "the model's first input is not [batch, 1 or 3, height, width] of f32: %.300s\n", inputs ? inputs : info);
        exit(1);
    }
    return shape;
}

static void submit(blaze_engine *engine, blaze_queue *queue, blaze_model model, struct shape shape, float *values,
                   uint64_t number) {
    const int64_t sizes[] = {1, shape.channels, shape.height, shape.width};
    blaze_error error;
    blaze_tensor input = BLAZE_TENSOR_INIT;
    input.dtype = BLAZE_DTYPE_F32;
    input.shape = sizes;
    input.rank = 4;
    input.data = values;
    input.size_bytes = (size_t)(sizes[1] * sizes[2] * sizes[3]) * sizeof *values;
    blaze_request request = BLAZE_REQUEST_INIT;
    request.model = model;
    request.user_data = number;
    request.inputs = &input;
    request.inputs_count = 1;
    require("submit", blaze_submit(engine, &request, queue, NULL, &error), error.message);
}

/* Prints the best classes of an answer and returns the first. */
static int print_answer(const char *path, const blaze_event *event) {
    blaze_tensor output = BLAZE_TENSOR_INIT;
    require("output", blaze_event_output(event, 0, &output), NULL);
    if (output.dtype != BLAZE_DTYPE_F32) require("output", BLAZE_STATUS_INVALID_DTYPE, "the output is not f32");
    const float *scores = output.data;
    int count = (int)(output.size_bytes / sizeof *scores), best = -1;
    float above = INFINITY;
    printf("%-28s", path);
    for (int rank = 0; rank < TOP && rank < count; rank++) {
        int next = -1;
        for (int i = 0; i < count; i++)
            if (scores[i] < above && (next < 0 || scores[i] > scores[next])) next = i;
        if (next < 0) break;
        printf("  %d: %5.1f %%", next, 100.0 * (double)scores[next]);
        if (rank == 0) best = next;
        above = scores[next];
    }
    printf("\n");
    return best;
}

/* ---- pictures to try it on ---------------------------------------------------------------------------------------- */

/* Writes some digits as files of all four kinds, larger than the model wants them, dark on light; returns their labels. */
static void write_samples(char paths[SAMPLES][64], int labels[SAMPLES]) {
    static const char kinds[SAMPLES] = {'2', '3', '5', '6', '5', '6'};
    unsigned char record[65];
    FILE *digits = fopen("models/digits/digits-test.bin", "rb");
    if (!digits) perror("models/digits/digits-test.bin"), exit(1);
    for (int i = 0; i < SAMPLES; i++) {
        int kind = kinds[i], zoom = 3 + 7 * i, side = 8 * zoom, channels = kind == '3' || kind == '6' ? 3 : 1;
        if (fread(record, sizeof record, 1, digits) != 1) perror("models/digits/digits-test.bin"), exit(1);
        snprintf(paths[i], 64, "target/classify-%d.%s", i, channels == 3 ? "ppm" : "pgm");
        labels[i] = record[64];
        FILE *file = fopen(paths[i], "wb");
        if (!file) perror(paths[i]), exit(1);
        fprintf(file, "P%c\n# a handwritten digit\n%d %d\n255\n", kind, side, side);
        for (int at = 0; at < side * side * channels; at++) {
            int pixel = at / channels, shade = 255 - record[pixel / side / zoom * 8 + pixel % side / zoom] * 255 / 16;
            if (kind < '4') fprintf(file, "%d%c", shade, at % 16 == 15 ? '\n' : ' ');
            else putc(shade, file);
        }
        if (fclose(file)) perror(paths[i]), exit(1);
    }
    fclose(digits);
}

int main(int argc, char **argv) {
    char sample_paths[SAMPLES][64], *own[SAMPLES], config[1024];
    int labels[SAMPLES], count = argc - 1, trying = argc == 1, failed = 0, right = 0, sent = 0;
    char **paths = argv + 1;
    const char *model_path = getenv("MODEL");
    int digits = !model_path;
    if (trying) {
        write_samples(sample_paths, labels);
        for (int i = 0; i < SAMPLES; i++) own[i] = sample_paths[i];
        paths = own, count = SAMPLES;
    }
    blaze_error error;
    blaze_engine *engine = NULL;
    blaze_queue *queue = NULL;
    blaze_model model = 0;
    require("engine", blaze_engine_create(NULL, &engine, &error), error.message);
    require("queue", blaze_queue_create(engine, (uint32_t)count, &queue, &error), error.message);
    snprintf(config, sizeof config, "{\"name\": \"classifier\", \"path\": \"%s\"}",
             model_path ? model_path : "models/digits/digits.onnx");
    require("model", blaze_model_load(engine, config, &model, &error), error.message);
    struct shape shape = read_shape(engine, model);
    float *input = malloc((size_t)shape.channels * (size_t)shape.height * (size_t)shape.width * sizeof *input);
    if (!input) return 1;

    for (int i = 0; i < count; i++) {
        struct picture picture;
        if (read_picture(paths[i], &picture)) {
            failed++;
            continue;
        }
        scale(&picture, shape, input);
        if (digits) ink_is_one(shape, input);
        submit(engine, queue, model, shape, input, (uint64_t)i); /* it is copied */
        free(picture.samples);
        sent++;
    }
    for (int done = 0; done < sent; done++) {
        blaze_event event;
        if (blaze_wait(queue, &event, sizeof event, 1, UINT64_MAX) != 1) return 1;
        int number = (int)event.user_data;
        if (event.status != BLAZE_STATUS_OK) {
            complain(paths[number], event.text ? event.text : blaze_status_name(event.status));
            failed++;
        } else {
            int best = print_answer(paths[number], &event);
            if (trying) right += best == labels[number];
        }
        blaze_event_release(&event);
    }
    if (trying) printf("%d of %d are right\n", right, SAMPLES);
    free(input);
    blaze_status status = blaze_queue_destroy(queue);
    blaze_engine_destroy(engine);
    return failed || status != BLAZE_STATUS_OK || (trying && right != SAMPLES) ? 1 : 0;
}
