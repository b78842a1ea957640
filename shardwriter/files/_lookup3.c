/* Jenkins' lookup3 hash of some bytes: the compiled twin of lookup3.py.

   Invariant: equal to `hashlittle(data, length, 0)` of https://burtleburtle.net/bob/c/lookup3.c,
   which its author put into the public domain, on machines of either byte order. */

#include <Python.h>
#include <stdint.h>

enum { BLOCK = 12 };

static uint32_t rotated(uint32_t word, int bits) { return word << bits | word >> (32 - bits); }

static uint32_t word_at(const unsigned char *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void add(uint32_t state[3], const unsigned char *block)
{
    for (int i = 0; i < 3; i++)
        state[i] += word_at(block + 4 * i);
}

/* One line of lookup3's mix(). */
#define MIX(target, source, other, bits)                                                          \
    (target -= source, target ^= rotated(source, bits), source += other)

/* One line of its final(). */
#define FINAL(target, source, bits) (target ^= source, target -= rotated(source, bits))

static uint32_t hash_of(const unsigned char *data, Py_ssize_t length)
{
    uint32_t start = 0xdeadbeef + (uint32_t)length;
    uint32_t state[3] = {start, start, start};
    if (length == 0)
        return start;
    for (; length > BLOCK; data += BLOCK, length -= BLOCK) {
        add(state, data);
        uint32_t a = state[0], b = state[1], c = state[2];
        MIX(a, c, b, 4);
        MIX(b, a, c, 6);
        MIX(c, b, a, 8);
        MIX(a, c, b, 16);
        MIX(b, a, c, 19);
        MIX(c, b, a, 4);
        state[0] = a, state[1] = b, state[2] = c;
    }
    unsigned char last[BLOCK] = {0};
    for (Py_ssize_t i = 0; i < length; i++)
        last[i] = data[i];
    add(state, last);
    uint32_t a = state[0], b = state[1], c = state[2];
    FINAL(c, b, 14);
    FINAL(a, c, 11);
    FINAL(b, a, 25);
    FINAL(c, b, 16);
    FINAL(a, c, 4);
    FINAL(b, a, 14);
    FINAL(c, b, 24);
    return c;
}

static PyObject *lookup3(PyObject *Py_UNUSED(module), PyObject *data)
{
    Py_buffer bytes;
    if (PyObject_GetBuffer(data, &bytes, PyBUF_SIMPLE) < 0)
        return NULL;
    uint32_t hash = hash_of(bytes.buf, bytes.len);
    PyBuffer_Release(&bytes);
    return PyLong_FromUnsignedLong(hash);
}

static PyMethodDef methods[] = {
    {"lookup3", lookup3, METH_O,
     "lookup3($module, data, /)\n--\n\nReturn the 32-bit hash of some bytes."},
    {NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_lookup3", NULL, 0, methods};

PyMODINIT_FUNC PyInit__lookup3(void) { return PyModuleDef_Init(&module); }
