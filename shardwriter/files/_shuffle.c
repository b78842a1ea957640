/* HDF5's shuffle filter and its inverse: the compiled twin of what codec.py does in NumPy.

   Invariant: no byte outside the two buffers is touched; other threads run meanwhile. */

#include <Python.h>

#define PLANE(i) *restrict p##i = planes + i * count
#define SPLIT(i, size) p##i[k] = items[size * k + i]
#define JOIN(i, size) items[size * k + i] = q##i[k]
#define SOURCE(i) *restrict q##i = planes + i * count + first

typedef unsigned char Byte;

/* Written out for the usual sizes, so that the compiler makes vector instructions of them. */

static void split2(const Byte *restrict items, Byte *planes, Py_ssize_t count)
{
    Byte PLANE(0), PLANE(1);
    for (Py_ssize_t k = 0; k < count; k++) {
        SPLIT(0, 2);
        SPLIT(1, 2);
    }
}

static void split4(const Byte *restrict items, Byte *planes, Py_ssize_t count)
{
    Byte PLANE(0), PLANE(1), PLANE(2), PLANE(3);
    for (Py_ssize_t k = 0; k < count; k++) {
        SPLIT(0, 4);
        SPLIT(1, 4);
        SPLIT(2, 4);
        SPLIT(3, 4);
    }
}

static void split8(const Byte *restrict items, Byte *planes, Py_ssize_t count)
{
    Byte PLANE(0), PLANE(1), PLANE(2), PLANE(3), PLANE(4), PLANE(5), PLANE(6), PLANE(7);
    for (Py_ssize_t k = 0; k < count; k++) {
        SPLIT(0, 8);
        SPLIT(1, 8);
        SPLIT(2, 8);
        SPLIT(3, 8);
        SPLIT(4, 8);
        SPLIT(5, 8);
        SPLIT(6, 8);
        SPLIT(7, 8);
    }
}

static void split(const Byte *restrict items, Byte *restrict planes, Py_ssize_t count, int size)
{
    for (int i = 0; i < size; i++)
        for (Py_ssize_t k = 0; k < count; k++)
            planes[i * count + k] = items[size * k + i];
}

static void join2(const Byte *planes, Byte *restrict items, Py_ssize_t count, Py_ssize_t first,
                  Py_ssize_t wanted)
{
    const Byte SOURCE(0), SOURCE(1);
    for (Py_ssize_t k = 0; k < wanted; k++) {
        JOIN(0, 2);
        JOIN(1, 2);
    }
}

static void join4(const Byte *planes, Byte *restrict items, Py_ssize_t count, Py_ssize_t first,
                  Py_ssize_t wanted)
{
    const Byte SOURCE(0), SOURCE(1), SOURCE(2), SOURCE(3);
    for (Py_ssize_t k = 0; k < wanted; k++) {
        JOIN(0, 4);
        JOIN(1, 4);
        JOIN(2, 4);
        JOIN(3, 4);
    }
}

static void join8(const Byte *planes, Byte *restrict items, Py_ssize_t count, Py_ssize_t first,
                  Py_ssize_t wanted)
{
    const Byte SOURCE(0), SOURCE(1), SOURCE(2), SOURCE(3), SOURCE(4), SOURCE(5), SOURCE(6),
        SOURCE(7);
    for (Py_ssize_t k = 0; k < wanted; k++) {
        JOIN(0, 8);
        JOIN(1, 8);
        JOIN(2, 8);
        JOIN(3, 8);
        JOIN(4, 8);
        JOIN(5, 8);
        JOIN(6, 8);
        JOIN(7, 8);
    }
}

static void join(const Byte *restrict planes, Byte *restrict items, Py_ssize_t count,
                 Py_ssize_t first, Py_ssize_t wanted, int size)
{
    for (int i = 0; i < size; i++)
        for (Py_ssize_t k = 0; k < wanted; k++)
            items[size * k + i] = planes[i * count + first + k];
}

static PyObject *shuffle(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *data;
    int size;
    Py_buffer in;
    if (!PyArg_ParseTuple(args, "Oi", &data, &size))
        return NULL;
    if (PyObject_GetBuffer(data, &in, PyBUF_SIMPLE) < 0)
        return NULL;
    PyObject *result = NULL;
    if (size < 1 || in.len % size)
        PyErr_Format(PyExc_ValueError, "expected items of %d bytes, got %zd bytes", size, in.len);
    else
        result = PyBytes_FromStringAndSize(NULL, in.len);
    if (result != NULL) {
        Byte *out = (Byte *)PyBytes_AsString(result);
        Py_ssize_t count = in.len / size;
        Py_BEGIN_ALLOW_THREADS
        if (size == 2)
            split2(in.buf, out, count);
        else if (size == 4)
            split4(in.buf, out, count);
        else if (size == 8)
            split8(in.buf, out, count);
        else
            split(in.buf, out, count, size);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&in);
    return result;
}

static PyObject *unshuffle(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *data, *target;
    int size;
    Py_ssize_t first;
    Py_buffer in, out;
    if (!PyArg_ParseTuple(args, "OOin", &data, &target, &size, &first))
        return NULL;
    if (PyObject_GetBuffer(data, &in, PyBUF_SIMPLE) < 0)
        return NULL;
    if (PyObject_GetBuffer(target, &out, PyBUF_CONTIG) < 0) {
        PyBuffer_Release(&in);
        return NULL;
    }
    int fits = size > 0 && in.len % size == 0 && out.len % size == 0 && first >= 0 &&
               first <= in.len / size && out.len / size <= in.len / size - first;
    if (fits) {
        Py_ssize_t count = in.len / size, wanted = out.len / size;
        Py_BEGIN_ALLOW_THREADS
        if (size == 2)
            join2(in.buf, out.buf, count, first, wanted);
        else if (size == 4)
            join4(in.buf, out.buf, count, first, wanted);
        else if (size == 8)
            join8(in.buf, out.buf, count, first, wanted);
        else
            join(in.buf, out.buf, count, first, wanted, size);
        Py_END_ALLOW_THREADS
    } else {
        PyErr_Format(PyExc_ValueError, "expected %zd bytes in items of %d bytes from item %zd on, "
                     "got %zd bytes", out.len, size, first, in.len);
    }
    PyBuffer_Release(&out);
    PyBuffer_Release(&in);
    if (!fits)
        return NULL;
    Py_RETURN_NONE;
}

/* Literals are a byte below 32 and one more than so many bytes; a match is its length in three bits,
   7 for one that goes on in a second byte, and the rest of its distance. */
static PyObject *lzf_length(PyObject *Py_UNUSED(module), PyObject *data)
{
    Py_buffer in;
    if (PyObject_GetBuffer(data, &in, PyBUF_SIMPLE) < 0)
        return NULL;
    const Byte *bytes = in.buf;
    Py_ssize_t at = 0, length = 0;
    while (at < in.len) {
        Py_ssize_t control = bytes[at], run = control >> 5;
        if (run == 0) {
            at += control + 2, length += control + 1;
            continue;
        }
        if (run == 7) {
            at++;
            run += at < in.len ? bytes[at] : 0;
        }
        at += 2, length += run + 2;
    }
    int is_whole = at == in.len;
    PyBuffer_Release(&in);
    if (!is_whole)
        return PyErr_Format(PyExc_ValueError, "the LZF stream ends too early");
    return PyLong_FromSsize_t(length);
}

static PyMethodDef methods[] = {
    {"shuffle", shuffle, METH_VARARGS,
     "shuffle($module, data, size, /)\n--\n\nReturn all first bytes of the items, all second bytes, "
     "and so on."},
    {"unshuffle", unshuffle, METH_VARARGS,
     "unshuffle($module, data, out, size, first, /)\n--\n\nFill `out` with the items from `first` "
     "on of what ``shuffle`` gave."},
    {"lzf_length", lzf_length, METH_O,
     "lzf_length($module, data, /)\n--\n\nReturn how many bytes an LZF stream decodes to."},
    {NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_shuffle", NULL, 0, methods};

PyMODINIT_FUNC PyInit__shuffle(void) { return PyModuleDef_Init(&module); }
