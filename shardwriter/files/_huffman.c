/* Bytes to a deflate block of literals (RFC 1951): a Huffman code for them, and no search for matches.

   Byte planes of floats hardly repeat themselves, so that to search them is time lost. Invariant: what
   is written is as long as was computed from the counts, and no byte beyond it is touched. Other
   threads run meanwhile. */

#include <Python.h>
#include <stdint.h>
#include <string.h>

/* Four codes and what a byte holds already fit 64 bits. Deflate allows 15. */
#define MOST_BITS 12
#define END 256 /* the symbol that ends a block */
#define SYMBOLS 257

typedef unsigned char Byte;

typedef struct {
    uint32_t weight;
    uint16_t parent;
} Node;

typedef struct {
    uint16_t bits; /* first bit lowest, as deflate wants them */
    uint16_t length;
} Code;

typedef struct {
    Byte *place, *end;
    uint64_t bits;
    int count; /* of bits, fewer than 8 between calls */
} Output;

/* -- the code ------------------------------------------------------------------------------- */

static void count_bytes(const Byte *data, Py_ssize_t n, uint32_t *counts)
{
    /* Four tables, as one counter is slow to count the same byte again. */
    uint32_t part[4][256] = {{0}};
    Py_ssize_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (int k = 0; k < 4; k++)
            part[k][data[i + k]]++;
    for (; i < n; i++)
        part[0][data[i]]++;
    for (int s = 0; s < 256; s++)
        counts[s] = part[0][s] + part[1][s] + part[2][s] + part[3][s];
    counts[END] = 1;
}

/* Store the symbols that occur, rarest first; return how many. */
static int sorted_symbols(const uint32_t *counts, uint16_t *symbols)
{
    uint16_t other[SYMBOLS];
    int n = 0;
    for (int s = 0; s < SYMBOLS; s++)
        if (counts[s])
            symbols[n++] = (uint16_t)s;
    for (int shift = 0; shift < 32; shift += 8) {
        int starts[257] = {0};
        for (int i = 0; i < n; i++)
            starts[(counts[symbols[i]] >> shift & 255) + 1]++;
        for (int i = 1; i < 257; i++)
            starts[i] += starts[i - 1];
        for (int i = 0; i < n; i++)
            other[starts[counts[symbols[i]] >> shift & 255]++] = symbols[i];
        memcpy(symbols, other, n * sizeof(*symbols));
    }
    return n;
}

/* Count the codes of each length in Huffman's tree, none longer than MOST_BITS. */
static void count_lengths(const uint32_t *counts, const uint16_t *symbols, int n, int *of_length)
{
    Node nodes[2 * SYMBOLS];
    int depth[2 * SYMBOLS];
    for (int i = 0; i < n; i++)
        nodes[i].weight = counts[symbols[i]];
    /* Leaves and inner nodes are two queues, both lightest first. */
    int leaf = 0, inner = n;
    for (int new = n; new < 2 * n - 1; new++) {
        nodes[new].weight = 0;
        for (int k = 0; k < 2; k++) {
            int is_leaf = leaf < n && (inner == new || nodes[leaf].weight <= nodes[inner].weight);
            int child = is_leaf ? leaf++ : inner++;
            nodes[new].weight += nodes[child].weight;
            nodes[child].parent = (uint16_t)new;
        }
    }
    depth[2 * n - 2] = 0;
    for (int i = 2 * n - 3; i >= 0; i--)
        depth[i] = depth[nodes[i].parent] + 1;
    for (int i = 0; i < n; i++)
        of_length[depth[i] < MOST_BITS ? depth[i] : MOST_BITS]++;
    /* Codes that were cut short take too much room, of which 1 << MOST_BITS are there: each turn makes
       a leaf an inner node, gives it and one of the longest codes as children, and frees 1. */
    int room = 0;
    for (int length = 1; length <= MOST_BITS; length++)
        room += of_length[length] << (MOST_BITS - length);
    for (; room > 1 << MOST_BITS; room--) {
        int length = MOST_BITS - 1;
        while (of_length[length] == 0)
            length--;
        of_length[length]--;
        of_length[length + 1] += 2;
        of_length[MOST_BITS]--;
    }
}

static uint16_t reversed(unsigned bits, int length)
{
    unsigned result = 0;
    for (int i = 0; i < length; i++)
        result |= (bits >> i & 1) << (length - 1 - i);
    return (uint16_t)result;
}

/* Make the code; return how many bits it takes for all that was counted. */
static int64_t make_codes(const uint32_t *counts, Code *codes)
{
    uint16_t symbols[SYMBOLS];
    int of_length[MOST_BITS + 1] = {0};
    unsigned next[MOST_BITS + 1], first = 0;
    int64_t total = 0;
    int n = sorted_symbols(counts, symbols);
    count_lengths(counts, symbols, n, of_length);
    for (int length = MOST_BITS, i = 0; length > 0; length--)
        for (int k = 0; k < of_length[length]; k++, i++) {
            codes[symbols[i]].length = (uint16_t)length;
            total += (int64_t)counts[symbols[i]] * length;
        }
    for (int length = 1; length <= MOST_BITS; length++) {
        first = (first + (length > 1 ? of_length[length - 1] : 0)) << 1;
        next[length] = first;
    }
    for (int s = 0; s < SYMBOLS; s++)
        if (codes[s].length)
            codes[s].bits = reversed(next[codes[s].length]++, codes[s].length);
    return total;
}

/* -- the block ------------------------------------------------------------------------------ */

static void put(Output *out, uint64_t bits, int count)
{
    out->bits |= bits << out->count;
    out->count += count;
    while (out->count >= 8) {
        *out->place++ = (Byte)out->bits;
        out->bits >>= 8;
        out->count -= 8;
    }
}

#define HEAD_BITS (3 + 5 + 5 + 4 + 19 * 3 + (SYMBOLS + 2) * 4)

/* Not the last block, a code of its own: of literals and, as there must be one, of distances. Each
   length stands there as a number of four bits. */
static void put_head(Output *out, const Code *codes)
{
    put(out, 0 | 2 << 1, 3);
    put(out, SYMBOLS - 257, 5);
    put(out, 2 - 1, 5);
    put(out, 19 - 4, 4);
    put(out, 0, 3 * 3); /* lengths are not run-length encoded */
    for (int i = 0; i < 16; i++)
        put(out, 4, 3);
    for (int s = 0; s < SYMBOLS; s++)
        put(out, reversed(codes[s].length, 4), 4);
    for (int i = 0; i < 2; i++)
        put(out, reversed(1, 4), 4);
}

static void put_literals(Output *out, const Byte *data, Py_ssize_t n, const Code *codes)
{
    Byte *place = out->place;
    uint64_t bits = out->bits;
    int count = out->count;
    Py_ssize_t i = 0;
    for (; i + 4 <= n && out->end - place >= 8; i += 4) {
        Code a = codes[data[i]], b = codes[data[i + 1]];
        Code c = codes[data[i + 2]], d = codes[data[i + 3]];
        uint64_t ab = a.bits | (uint64_t)b.bits << a.length;
        uint64_t cd = c.bits | (uint64_t)d.bits << c.length;
        int half = a.length + b.length;
        bits |= (ab | cd << half) << count;
        count += half + c.length + d.length;
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        uint64_t word = __builtin_bswap64(bits);
#else
        uint64_t word = bits;
#endif
        memcpy(place, &word, 8);
        place += count >> 3;
        bits >>= count & ~7;
        count &= 7;
    }
    *out = (Output){place, out->end, bits, count};
    for (; i < n; i++)
        put(out, codes[data[i]].bits, codes[data[i]].length);
}

static PyObject *literals(PyObject *Py_UNUSED(module), PyObject *data)
{
    Py_buffer in;
    if (PyObject_GetBuffer(data, &in, PyBUF_SIMPLE) < 0)
        return NULL;
    if (in.len < 1 || in.len > UINT32_MAX / 2) {
        PyErr_Format(PyExc_ValueError, "expected 1 byte to 2 GiB, got %zd", in.len);
        PyBuffer_Release(&in);
        return NULL;
    }
    uint32_t counts[SYMBOLS];
    Code codes[SYMBOLS] = {{0}};
    Py_ssize_t size;
    Py_BEGIN_ALLOW_THREADS
    count_bytes(in.buf, in.len, counts);
    size = (HEAD_BITS + make_codes(counts, codes) + 3 + 7) / 8 + 4;
    Py_END_ALLOW_THREADS
    PyObject *result = PyBytes_FromStringAndSize(NULL, size);
    if (result != NULL) {
        Byte *start = (Byte *)PyBytes_AsString(result);
        Output out = {start, start + size, 0, 0};
        Py_BEGIN_ALLOW_THREADS
        put_head(&out, codes);
        put_literals(&out, in.buf, in.len, codes);
        put(&out, codes[END].bits, codes[END].length);
        put(&out, 0, 3); /* an empty stored block, which begins at a byte */
        put(&out, 0, -out.count & 7);
        memcpy(out.place, "\0\0\xff\xff", 4);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&in);
    return result;
}

static PyMethodDef methods[] = {
    {"literals", literals, METH_O,
     "literals($module, data, /)\n--\n\nReturn a deflate block of literals that is not the last, and "
     "ends with a whole byte."},
    {NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_huffman", NULL, 0, methods};

PyMODINIT_FUNC PyInit__huffman(void) { return PyModuleDef_Init(&module); }
