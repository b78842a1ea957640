/* Jenkins' lookup3 hash of some bytes: the compiled twin of lookup3.py. */

#include <Python.h>

#include "_lookup3.h"

static PyObject *lookup3(PyObject *Py_UNUSED(module), PyObject *data)
{
    Py_buffer bytes;
    if (PyObject_GetBuffer(data, &bytes, PyBUF_SIMPLE) < 0)
        return NULL;
    uint32_t hash = lookup3_of(bytes.buf, bytes.len);
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
