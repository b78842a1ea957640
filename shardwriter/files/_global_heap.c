/* Whether a file's global heaps would keep HDF5 busy for ever: the compiled twin of global_heap.py.

   Invariant: nothing outside the bytes given is read; other threads run meanwhile. */

#define _GNU_SOURCE
#include <Python.h>
#include <stdint.h>
#include <string.h>

enum { HEAD = 16 }; /* bytes before a heap's entries, and before an entry's data */

static uint64_t word_at(const unsigned char *p)
{
    uint64_t word = 0;
    for (int i = 7; i >= 0; i--)
        word = word << 8 | p[i];
    return word;
}

static int loops(const unsigned char *heap, uint64_t most)
{
    if (most < HEAD)
        return 0;
    uint64_t size = word_at(heap + 8);
    const unsigned char *entry = heap + HEAD;
    uint64_t left = (size < most ? size : most) - HEAD;
    if (size < HEAD)
        return 0;
    while (left >= HEAD) {
        int is_free = entry[0] == 0 && entry[1] == 0;
        uint64_t length = word_at(entry + 8);
        if (is_free && length < HEAD)
            return 1;
        if (length > left)
            return 0;
        uint64_t step = is_free ? length : HEAD + (length + 7) / 8 * 8;
        if (step > left)
            return 0;
        entry += step;
        left -= step;
    }
    return 0;
}

static PyObject *is_endless(PyObject *Py_UNUSED(module), PyObject *data)
{
    Py_buffer bytes;
    if (PyObject_GetBuffer(data, &bytes, PyBUF_SIMPLE) < 0)
        return NULL;
    const unsigned char *at = bytes.buf, *end = at + bytes.len;
    int found = 0;
    Py_BEGIN_ALLOW_THREADS
    while (!found && (at = memmem(at, end - at, "GCOL\1", 5)) != NULL) {
        found = loops(at, end - at);
        at++;
    }
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&bytes);
    return PyBool_FromLong(found);
}

static PyMethodDef methods[] = {
    {"is_endless", is_endless, METH_O,
     "is_endless($module, data, /)\n--\n\nTell whether a global heap among some bytes has an entry "
     "for free space that takes no space."},
    {NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_global_heap", NULL, 0, methods};

PyMODINIT_FUNC PyInit__global_heap(void) { return PyModuleDef_Init(&module); }
