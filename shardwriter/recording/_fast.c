/* The innermost step of log_timestep: values that are as the tables want them, into their slots.

   Invariant: `Step.store` checks everything before it stores anything, and takes only what needs
   nothing but copies: known fields, arrays of the known dtype and shape, room in every slot. For
   anything else it stores nothing and returns False, and Python does it all. So it does where a
   slot was filled, but then `has_filled` is set, and only the slot is to be handed over. Data first,
   counter last, as in buffer.py. */

#include <Python.h>
#include <string.h>
#include <structmember.h>

#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#include <numpy/arrayobject.h>

typedef struct {
    PyArrayObject *slot; /* borrowed from Cursor.arrays: (rows, *shape) */
    char *data;
    npy_intp row_bytes;
    int float_bytes; /* 0 where it holds no floats, -1 where they are none that can be looked at */
} Column;

/* Where the next row of a table goes. */
typedef struct {
    PyObject_HEAD
    PyObject *names;  /* tuple of the columns after timesteps, NULL before `enter` */
    PyObject *arrays; /* tuple of the slot's columns, which keeps them mapped */
    Py_buffer counter;
    int64_t base, limit;
    int64_t *timesteps;
    Py_ssize_t n_columns;
    Column *columns;
    char is_watched;
    int64_t finite_from, finite_to; /* rows that were stored here, and hold no NaN nor infinity */
} Cursor;

typedef struct {
    PyObject_HEAD
    Cursor *neural, *spikes, *behavior, *rewards;
    Py_buffer steps;
    long long first_valid, next_sample, sampling;
    long long calls, timed; /* calls so far, and the one that Python takes and times */
    long long n_neurons; /* -1 where that is not known */
    char is_checked;
    char has_filled;
} Step;

static PyTypeObject *cursor_type;

static int64_t load(const Py_buffer *word) { return *(const int64_t *)word->buf; }

/* What was stored before is seen by whoever sees this. */
static void store(const Py_buffer *word, int64_t value)
{
    __atomic_store_n((int64_t *)word->buf, value, __ATOMIC_RELEASE);
}

static int word_of(PyObject *view, Py_buffer *word)
{
    if (PyObject_GetBuffer(view, word, PyBUF_WRITABLE) < 0)
        return -1;
    if (word->len == 8)
        return 0;
    PyBuffer_Release(word);
    PyErr_SetString(PyExc_ValueError, "expected a view of one 8-byte word");
    return -1;
}

/* -- Cursor --------------------------------------------------------------------------------- */

static void cursor_clear(Cursor *self)
{
    Py_CLEAR(self->names);
    Py_CLEAR(self->arrays);
    PyMem_Free(self->columns);
    self->columns = NULL;
    self->n_columns = 0;
    if (self->counter.obj != NULL)
        PyBuffer_Release(&self->counter);
}

static void cursor_dealloc(Cursor *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    cursor_clear(self);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static int float_bytes(PyArrayObject *slot)
{
    switch (PyArray_TYPE(slot)) {
    case NPY_HALF:
        return 2;
    case NPY_FLOAT:
    case NPY_CFLOAT:
        return 4;
    case NPY_DOUBLE:
    case NPY_CDOUBLE:
        return 8;
    default:
        return PyArray_ISFLOAT(slot) || PyArray_ISCOMPLEX(slot) ? -1 : 0;
    }
}

/* Tell whether no exponent has all bits set. */
#define ARE_FINITE(UINT, EXPONENT)                                                                \
    do {                                                                                          \
        UINT is_odd = 0;                                                                          \
        for (npy_intp i = 0; i < bytes; i += sizeof(UINT)) {                                      \
            UINT bits;                                                                            \
            memcpy(&bits, place + i, sizeof(UINT));                                               \
            is_odd |= (bits & (EXPONENT)) == (EXPONENT);                                          \
        }                                                                                         \
        return !is_odd;                                                                           \
    } while (0)

static int are_finite(const char *place, npy_intp bytes, int float_bytes)
{
    switch (float_bytes) {
    case 0:
        return 1;
    case 2:
        ARE_FINITE(uint16_t, 0x7c00);
    case 4:
        ARE_FINITE(uint32_t, 0x7f800000);
    case 8:
        ARE_FINITE(uint64_t, 0x7ff0000000000000);
    default:
        return 0;
    }
}

/* Tell whether rows `from` to `to` of every column hold neither NaN nor infinity. */
static int rows_are_finite(const Cursor *self, int64_t from, int64_t to)
{
    for (Py_ssize_t i = 0; i < self->n_columns; i++) {
        const Column *c = &self->columns[i];
        if (!are_finite(c->data + from * c->row_bytes, (to - from) * c->row_bytes, c->float_bytes))
            return 0;
    }
    return 1;
}

static int cursor_use(Cursor *self)
{
    Py_ssize_t count = PyTuple_Size(self->arrays);
    if (count != PyTuple_Size(self->names) + 1)
        return -1;
    self->columns = PyMem_Calloc(count, sizeof(Column));
    if (self->columns == NULL)
        return -1;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyArrayObject *slot = (PyArrayObject *)PyTuple_GetItem(self->arrays, i);
        if (!PyArray_CheckExact((PyObject *)slot) || PyArray_NDIM(slot) < 1 ||
            !PyArray_ISCARRAY(slot) || PyArray_DIM(slot, 0) != self->limit)
            return -1;
        Column column = {slot, PyArray_BYTES(slot), PyArray_NBYTES(slot) / self->limit,
                         float_bytes(slot)};
        if (i > 0)
            self->columns[i - 1] = column;
        else if (PyArray_TYPE(slot) == NPY_INT64 && PyArray_NDIM(slot) == 1)
            self->timesteps = (int64_t *)column.data;
        else
            return -1;
    }
    self->n_columns = count - 1;
    return 0;
}

static PyObject *cursor_enter(Cursor *self, PyObject *args)
{
    PyObject *names, *arrays, *counter;
    long long base;
    if (!PyArg_ParseTuple(args, "O!O!OL", &PyTuple_Type, &names, &PyTuple_Type, &arrays, &counter,
                          &base))
        return NULL;
    cursor_clear(self);
    if (word_of(counter, &self->counter) < 0)
        return NULL;
    Py_INCREF(names);
    Py_INCREF(arrays);
    self->names = names;
    self->arrays = arrays;
    self->base = base;
    self->limit = self->finite_from = self->finite_to = 0;
    if (PyTuple_Size(arrays) > 0 && PyArray_CheckExact(PyTuple_GetItem(arrays, 0)) &&
        PyArray_NDIM((PyArrayObject *)PyTuple_GetItem(arrays, 0)) == 1)
        self->limit = PyArray_DIM((PyArrayObject *)PyTuple_GetItem(arrays, 0), 0);
    if (self->limit < 1 || cursor_use(self) < 0) {
        cursor_clear(self);
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "expected the columns of a slot, int64 first");
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *cursor_leave(Cursor *self, PyObject *Py_UNUSED(args))
{
    cursor_clear(self);
    Py_RETURN_NONE;
}

static PyObject *cursor_all_finite(Cursor *self, PyObject *Py_UNUSED(args))
{
    return PyBool_FromLong(self->names != NULL && rows_are_finite(self, 0, self->finite_from) &&
                           rows_are_finite(self, self->finite_to, self->limit));
}

static PyMethodDef cursor_methods[] = {
    {"enter", (PyCFunction)cursor_enter, METH_VARARGS,
     "enter($self, names, arrays, counter, base, /)\n--\n\nGo on in a slot whose first row is row "
     "`base` of the table."},
    {"leave", (PyCFunction)cursor_leave, METH_NOARGS, "leave($self, /)\n--\n\nBe in no slot."},
    {"all_finite", (PyCFunction)cursor_all_finite, METH_NOARGS,
     "all_finite($self, /)\n--\n\nTell whether a full slot holds neither NaN nor infinity."},
    {NULL},
};

static PyMemberDef cursor_members[] = {
    {"is_watched", T_BOOL, offsetof(Cursor, is_watched), 0, NULL},
    {NULL},
};

static PyType_Slot cursor_slots[] = {
    {Py_tp_dealloc, cursor_dealloc},
    {Py_tp_methods, cursor_methods},
    {Py_tp_members, cursor_members},
    {Py_tp_doc, "Where the next row of a table goes."},
    {0, NULL},
};

static PyType_Spec cursor_spec = {"shardwriter.recording._fast.Cursor", sizeof(Cursor), 0,
                                  Py_TPFLAGS_DEFAULT, cursor_slots};

/* Return the row that comes next, or -1 where `count` rows would need the next slot. */
static int64_t next_row(const Cursor *cursor, int64_t count)
{
    if (cursor->names == NULL)
        return -1;
    int64_t row = load(&cursor->counter) - cursor->base;
    return row >= 0 && row + count <= cursor->limit ? row : -1;
}

static int is_full(const Cursor *cursor)
{
    return cursor->names != NULL && load(&cursor->counter) - cursor->base == cursor->limit;
}

static void commit(Cursor *cursor, int64_t rows)
{
    store(&cursor->counter, cursor->base + rows);
}

/* -- values --------------------------------------------------------------------------------- */

/* Tell whether a value is a row of a column as it is. */
static int is_row(PyObject *value, const Column *column)
{
    PyArrayObject *slot = column->slot;
    if (PyArray_CheckExact(value)) {
        PyArrayObject *array = (PyArrayObject *)value;
        int n = PyArray_NDIM(array);
        if (PyArray_DESCR(array) != PyArray_DESCR(slot) || n + 1 != PyArray_NDIM(slot) ||
            !PyArray_IS_C_CONTIGUOUS(array))
            return 0;
        for (int i = 0; i < n; i++)
            if (PyArray_DIM(array, i) != PyArray_DIM(slot, i + 1))
                return 0;
        return 1;
    }
    if (PyArray_NDIM(slot) != 1)
        return 0;
    PyTypeObject *type = Py_TYPE(value);
    switch (PyArray_TYPE(slot)) {
    case NPY_DOUBLE:
        return type == &PyFloat_Type || type == &PyDoubleArrType_Type;
    case NPY_FLOAT:
        return type == &PyFloatArrType_Type;
    case NPY_BOOL:
        return type == &PyBool_Type || type == &PyBoolArrType_Type;
    default:
        return 0;
    }
}

static void store_row(PyObject *value, const Column *column, int64_t row)
{
    char *place = column->data + row * column->row_bytes;
    if (PyArray_CheckExact(value)) {
        memcpy(place, PyArray_DATA((PyArrayObject *)value), column->row_bytes);
        return;
    }
    switch (PyArray_TYPE(column->slot)) {
    case NPY_DOUBLE:
        *(double *)place = PyFloat_AsDouble(value);
        break;
    case NPY_FLOAT:
        PyArray_ScalarAsCtype(value, place);
        break;
    default:
        if (PyBool_Check(value))
            *place = value == Py_True;
        else
            PyArray_ScalarAsCtype(value, place);
    }
}

static int are_rows(PyObject *fields, const Cursor *cursor)
{
    if (!PyDict_CheckExact(fields) || next_row(cursor, 1) < 0 ||
        PyDict_Size(fields) != cursor->n_columns)
        return 0;
    for (Py_ssize_t i = 0; i < cursor->n_columns; i++) {
        PyObject *name = PyTuple_GetItem(cursor->names, i);
        PyObject *value = PyDict_GetItemWithError(fields, name);
        if (value == NULL || !is_row(value, &cursor->columns[i]))
            return 0;
    }
    return 1;
}

static void store_fields(PyObject *fields, Cursor *cursor, int64_t timestep)
{
    int64_t row = load(&cursor->counter) - cursor->base;
    cursor->timesteps[row] = timestep;
    for (Py_ssize_t i = 0; i < cursor->n_columns; i++) {
        PyObject *name = PyTuple_GetItem(cursor->names, i);
        store_row(PyDict_GetItemWithError(fields, name), &cursor->columns[i], row);
    }
    if (cursor->is_watched) {
        if (cursor->finite_from == cursor->finite_to)
            cursor->finite_from = cursor->finite_to = row;
        if (cursor->finite_to == row && rows_are_finite(cursor, row, row + 1))
            cursor->finite_to = row + 1;
    }
    commit(cursor, row + 1);
}

/* -- spikes --------------------------------------------------------------------------------- */

/* Return how many spikes there are, -1 where Python has to look at them. */
static int64_t count_spikes(const Step *self, PyObject *spikes, PyObject *ids)
{
    PyObject *given = ids == Py_None ? spikes : ids;
    PyArrayObject *array = (PyArrayObject *)given;
    if ((ids != Py_None && spikes != Py_None) || !PyArray_CheckExact(given) ||
        PyArray_NDIM(array) != 1 || !PyArray_ISCARRAY_RO(array))
        return -1;
    int64_t count = PyArray_DIM(array, 0);
    if (ids != Py_None) {
        int64_t low = self->is_checked ? 0 : INT32_MIN;
        int64_t high = self->is_checked && self->n_neurons >= 0 ? self->n_neurons - 1 : INT32_MAX;
        int is_within = 1;
        if (PyArray_TYPE(array) == NPY_INT32) {
            const int32_t *id = PyArray_DATA(array);
            for (int64_t i = 0; i < count; i++)
                is_within &= id[i] >= low && id[i] <= high;
        } else if (PyArray_TYPE(array) == NPY_INT64) {
            const int64_t *id = PyArray_DATA(array);
            for (int64_t i = 0; i < count; i++)
                is_within &= id[i] >= low && id[i] <= high;
        } else
            return -1;
        return is_within ? count : -1;
    }
    if (PyArray_TYPE(array) != NPY_BOOL || (self->is_checked && count != self->n_neurons))
        return -1;
    const unsigned char *fired = PyArray_DATA(array);
    int64_t n = 0;
    for (int64_t i = 0; i < count; i++)
        n += fired[i] != 0;
    return n;
}

static void store_spikes(PyArrayObject *array, Cursor *cursor, int64_t timestep, int64_t count)
{
    int64_t row = load(&cursor->counter) - cursor->base;
    int32_t *out = (int32_t *)cursor->columns[0].data + row;
    for (int64_t i = 0; i < count; i++)
        cursor->timesteps[row + i] = timestep;
    if (PyArray_TYPE(array) == NPY_INT32)
        memcpy(out, PyArray_DATA(array), count * sizeof(int32_t));
    else if (PyArray_TYPE(array) == NPY_INT64)
        for (int64_t i = 0; i < count; i++)
            out[i] = (int32_t)((const int64_t *)PyArray_DATA(array))[i];
    else {
        const unsigned char *fired = PyArray_DATA(array);
        for (int64_t i = 0; count > 0; i++)
            if (fired[i]) {
                *out++ = (int32_t)i;
                count--;
            }
        commit(cursor, out - (int32_t *)cursor->columns[0].data);
        return;
    }
    commit(cursor, row + count);
}

/* -- Step ----------------------------------------------------------------------------------- */

static int step_init(Step *self, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    PyObject *steps;
    int is_checked;
    if (self->neural != NULL) {
        PyErr_SetString(PyExc_TypeError, "a Step is made once");
        return -1;
    }
    if (!PyArg_ParseTuple(args, "OLpO!O!O!O!", &steps, &self->sampling, &is_checked, cursor_type,
                          &self->neural, cursor_type, &self->spikes, cursor_type, &self->behavior,
                          cursor_type, &self->rewards) ||
        word_of(steps, &self->steps) < 0) {
        self->neural = self->spikes = self->behavior = self->rewards = NULL; /* borrowed */
        return -1;
    }
    Py_INCREF((PyObject *)self->neural);
    Py_INCREF((PyObject *)self->spikes);
    Py_INCREF((PyObject *)self->behavior);
    Py_INCREF((PyObject *)self->rewards);
    self->is_checked = (char)is_checked;
    self->first_valid = is_checked ? 0 : LLONG_MIN;
    self->next_sample = LLONG_MIN;
    self->n_neurons = -1;
    return 0;
}

static void step_dealloc(Step *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    Py_CLEAR(self->neural);
    Py_CLEAR(self->spikes);
    Py_CLEAR(self->behavior);
    Py_CLEAR(self->rewards);
    if (self->steps.obj != NULL)
        PyBuffer_Release(&self->steps);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

/* A timestep that fits as it is. */
typedef struct {
    int64_t timestep, n_spikes;
    PyObject *neural, *spikes, *behavior; /* borrowed; NULL where there is none to store */
    double reward;
} Row;

/* Return 1 and the row if it needs nothing but copies, 0 if Python has to look, -1 on an error. */
static int row_that_fits(const Step *self, PyObject *const *args, Row *row)
{
    PyObject *neural = args[1], *spikes = args[2], *behavior = args[3], *reward = args[4];
    PyObject *ids = args[5];
    int overflow;
    *row = (Row){0};
    if (!PyLong_CheckExact(args[0]))
        return 0;
    row->timestep = PyLong_AsLongLongAndOverflow(args[0], &overflow);
    if (overflow || row->timestep < self->first_valid ||
        row->timestep > INT64_MAX - self->sampling)
        return 0;
    if (neural != Py_None && row->timestep >= self->next_sample) {
        if (!are_rows(neural, self->neural))
            goto no;
        row->neural = neural;
    }
    if (spikes != Py_None || ids != Py_None) {
        row->n_spikes = count_spikes(self, spikes, ids);
        if (row->n_spikes < 0 || next_row(self->spikes, row->n_spikes) < 0)
            goto no;
        row->spikes = ids == Py_None ? spikes : ids;
    }
    if (behavior != Py_None) {
        if (!are_rows(behavior, self->behavior))
            goto no;
        row->behavior = behavior;
    }
    if (Py_TYPE(reward) == &PyFloat_Type || Py_TYPE(reward) == &PyDoubleArrType_Type)
        row->reward = PyFloat_AsDouble(reward);
    else if (Py_TYPE(reward) == &PyFloatArrType_Type) {
        float narrow;
        PyArray_ScalarAsCtype(reward, &narrow);
        row->reward = narrow;
    } else if (reward != Py_None)
        goto no;
    return row->reward == 0.0 || next_row(self->rewards, 1) >= 0;
no:
    return PyErr_Occurred() ? -1 : 0;
}

static int are_arguments(const Step *self, Py_ssize_t n)
{
    if (n == 6 && self->neural != NULL)
        return 1;
    PyErr_SetString(PyExc_TypeError, "expected six arguments");
    return 0;
}

static PyObject *step_fits(Step *self, PyObject *const *args, Py_ssize_t n)
{
    Row row;
    int fits = are_arguments(self, n) ? row_that_fits(self, args, &row) : -1;
    return fits < 0 ? NULL : PyBool_FromLong(fits);
}

static PyObject *step_store(Step *self, PyObject *const *args, Py_ssize_t n)
{
    Row row;
    if (!are_arguments(self, n))
        return NULL;
    self->has_filled = 0;
    int fits = row_that_fits(self, args, &row);
    if (fits < 0)
        return NULL;
    if (!fits)
        Py_RETURN_FALSE;

    if (row.neural != NULL) {
        store_fields(row.neural, self->neural, row.timestep);
        self->next_sample = row.timestep + self->sampling;
    }
    if (row.n_spikes)
        store_spikes((PyArrayObject *)row.spikes, self->spikes, row.timestep, row.n_spikes);
    if (row.behavior != NULL)
        store_fields(row.behavior, self->behavior, row.timestep);
    if (row.reward != 0.0) {
        Cursor *rewards = self->rewards;
        int64_t place = load(&rewards->counter) - rewards->base;
        rewards->timesteps[place] = row.timestep;
        ((double *)rewards->columns[0].data)[place] = row.reward;
        commit(rewards, place + 1);
    }
    if (self->is_checked)
        self->first_valid = row.timestep;
    store(&self->steps, load(&self->steps) + 1);
    self->has_filled = is_full(self->neural) || is_full(self->spikes) ||
                       is_full(self->behavior) || is_full(self->rewards);
    return PyBool_FromLong(!self->has_filled);
}

static PyObject *step_log(Step *self, PyObject *const *args, Py_ssize_t n)
{
    self->has_filled = 0;
    if (++self->calls == self->timed)
        Py_RETURN_FALSE;
    return step_store(self, args, n);
}

static PyMethodDef step_methods[] = {
    {"fits", (PyCFunction)(void (*)(void))step_fits, METH_FASTCALL,
     "fits($self, timestep, neural_state, spikes, behavior, reward, spike_ids, /)\n--\n\n"
     "Tell whether `store` of a timestep would store it; store nothing."},
    {"store", (PyCFunction)(void (*)(void))step_store, METH_FASTCALL,
     "store($self, timestep, neural_state, spikes, behavior, reward, spike_ids, /)\n--\n\n"
     "Log a timestep as `log` does, but as part of another call."},
    {"log", (PyCFunction)(void (*)(void))step_log, METH_FASTCALL,
     "log($self, timestep, neural_state, spikes, behavior, reward, spike_ids, /)\n--\n\n"
     "Log a timestep and return True; return False where Python has to go on."},
    {NULL},
};

static PyMemberDef step_members[] = {
    {"first_valid", T_LONGLONG, offsetof(Step, first_valid), 0, NULL},
    {"next_sample", T_LONGLONG, offsetof(Step, next_sample), 0, NULL},
    {"n_neurons", T_LONGLONG, offsetof(Step, n_neurons), 0, NULL},
    {"calls", T_LONGLONG, offsetof(Step, calls), 0, NULL},
    {"timed", T_LONGLONG, offsetof(Step, timed), 0, NULL},
    {"has_filled", T_BOOL, offsetof(Step, has_filled), READONLY, NULL},
    {NULL},
};

static PyType_Slot step_slots[] = {
    {Py_tp_init, step_init},
    {Py_tp_dealloc, step_dealloc},
    {Py_tp_methods, step_methods},
    {Py_tp_members, step_members},
    {Py_tp_doc, "Logs the usual timesteps of one episode."},
    {0, NULL},
};

static PyType_Spec step_spec = {"shardwriter.recording._fast.Step", sizeof(Step), 0, Py_TPFLAGS_DEFAULT,
                                step_slots};

/* -- module --------------------------------------------------------------------------------- */

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_fast", NULL, -1, NULL};

PyMODINIT_FUNC PyInit__fast(void)
{
    import_array();
    PyObject *self = PyModule_Create(&module);
    if (self == NULL)
        return NULL;
    PyObject *cursor = PyType_FromSpec(&cursor_spec), *step = PyType_FromSpec(&step_spec);
    cursor_type = (PyTypeObject *)cursor;
    if (cursor == NULL || step == NULL || PyModule_AddObjectRef(self, "Cursor", cursor) < 0 ||
        PyModule_AddObjectRef(self, "Step", step) < 0)
        return NULL;
    Py_DECREF(step);
    return self;
}
