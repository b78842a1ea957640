/* Whether a file's global heaps would keep HDF5 busy for ever: the compiled twin of global_heap.py.

   Invariant: nothing outside the bytes given is read; other threads run meanwhile. */

#define _GNU_SOURCE
#include <Python.h>
#include <stdint.h>
#include <string.h>

enum { HEAD = 16 }; /* bytes before a heap's entries, and before an entry's data */
enum { MOST_WALKS = 64 };
enum { STRIDE = 256, SIGNATURE = 5 };

typedef struct {
    uint64_t at, end; /* of the file */
} Walk;

typedef struct {
    const unsigned char *bytes;
    uint64_t place, stop; /* of the bytes in the file */
    uint64_t steps; /* that may be taken yet */
    Walk going_on[MOST_WALKS];
    int count;
} Search;

static uint64_t word_at(const unsigned char *p)
{
    uint64_t word = 0;
    for (int i = 7; i >= 0; i--)
        word = word << 8 | p[i];
    return word;
}

/* Go through a heap's entries; tell whether that is refused. */
static int is_refused(Search *search, Walk walk)
{
    while (walk.end - walk.at >= HEAD) {
        if (walk.at + HEAD > search->stop) {
            if (search->count == MOST_WALKS)
                return 1;
            search->going_on[search->count++] = walk;
            return 0;
        }
        if (!search->steps--)
            return 1;
        const unsigned char *entry = search->bytes + (walk.at - search->place);
        uint64_t length = word_at(entry + 8), left = walk.end - walk.at;
        int is_free = entry[0] == 0 && entry[1] == 0;
        if (is_free && length < HEAD)
            return 1;
        if (length > left)
            return 0;
        uint64_t step = is_free ? length : HEAD + (length + 7) / 8 * 8;
        if (step > left)
            return 0;
        walk.at += step;
    }
    return 0;
}

/* memmem for the signature, at several times its speed: compilers vectorise the inner loop. */
static const unsigned char *next_heap(const unsigned char *at, const unsigned char *end)
{
    for (; end - at >= STRIDE + SIGNATURE; at += STRIDE) {
        unsigned char is_near = 0;
        for (int i = 0; i < STRIDE; i++)
            is_near |= (at[i] == 'G') & (at[i + 1] == 'C');
        const void *found = is_near ? memmem(at, STRIDE + SIGNATURE - 1, "GCOL\1", SIGNATURE) : NULL;
        if (found != NULL)
            return found;
    }
    return memmem(at, end - at, "GCOL\1", SIGNATURE);
}

static int is_any_refused(Search *search, uint64_t limit, const Walk *walks, int count)
{
    for (int i = 0; i < count; i++)
        if (is_refused(search, walks[i]))
            return 1;
    uint64_t length = search->stop - search->place;
    if (length < HEAD)
        return 0;
    const unsigned char *at = search->bytes, *end = search->bytes + length - HEAD + SIGNATURE;
    for (; (at = next_heap(at, end)) != NULL; at++) {
        uint64_t start = search->place + (at - search->bytes), size = word_at(at + 8);
        Walk walk = {start + HEAD, size < limit - start ? start + size : limit};
        if (size >= HEAD && is_refused(search, walk))
            return 1;
    }
    return 0;
}

static PyObject *listed(const Walk *walks, int count)
{
    PyObject *list = PyList_New(0);
    for (int i = 0; list != NULL && i < count; i++) {
        PyObject *walk = Py_BuildValue("KK", walks[i].at, walks[i].end);
        if (walk == NULL || PyList_Append(list, walk) < 0)
            Py_CLEAR(list);
        Py_XDECREF(walk);
    }
    return list;
}

static PyObject *search(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer bytes;
    unsigned long long place, limit;
    PyObject *given;
    if (!PyArg_ParseTuple(args, "y*KKO!", &bytes, &place, &limit, &PyList_Type, &given))
        return NULL;
    PyObject *found = NULL;
    Walk walks[MOST_WALKS];
    int count = 0, is_refused_here;
    for (; count < PyList_Size(given) && count < MOST_WALKS; count++) {
        unsigned long long at, end;
        if (!PyArg_ParseTuple(PyList_GetItem(given, count), "KK", &at, &end))
            goto done;
        if (at < place || at > end || end > limit) {
            PyErr_SetString(PyExc_ValueError, "expected walks that go on in these bytes");
            goto done;
        }
        walks[count] = (Walk){at, end};
    }
    if (place + bytes.len > limit) {
        PyErr_SetString(PyExc_ValueError, "expected bytes before the limit");
        goto done;
    }
    Search state = {bytes.buf, place, place + bytes.len, bytes.len / 4 + MOST_WALKS, {{0}}, 0};
    Py_BEGIN_ALLOW_THREADS
    is_refused_here = is_any_refused(&state, limit, walks, count);
    Py_END_ALLOW_THREADS
    found = is_refused_here ? Py_NewRef(Py_None) : listed(state.going_on, state.count);
done:
    PyBuffer_Release(&bytes);
    return found;
}

static PyMethodDef methods[] = {
    {"search", search, METH_VARARGS,
     "search($module, data, place, limit, walks, /)\n--\n\nReturn the walks that go on behind some "
     "bytes of a file, None where its reader would not come to an end."},
    {NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_global_heap", NULL, 0, methods};

PyMODINIT_FUNC PyInit__global_heap(void) { return PyModuleDef_Init(&module); }
