/* Episodes as short shards have them: copied, compared and outlined as bytes; see stored_episode.py.

   Invariant: what is not understood of a file is left to Python. */

#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "_stored_object.h"

enum { COLLECTION = 32 * 1024, LEAST_COLLECTION = 4096, MOST_OBJECTS = 60000 };
enum { COMPARED = 64 * 1024 };

/* -- copies ----------------------------------------------------------------------------------- */

typedef struct {
    uint64_t address, size;
    size_t at; /* where the copy has this address */
} Extent;

typedef struct {
    size_t at, length;
} Span;

typedef struct {
    uint64_t base;  /* of `out` in the file that it goes to */
    Array out;      /* bytes */
    Array heap;     /* bytes */
    size_t collection, objects;
    Array in_heap;  /* places in `out`, size_t, of addresses that count from the heap's start */
    Array spans;    /* Span, before each checksum */
    Array extents;  /* Extent, of one episode */
} Copies;

static void close_collection(Copies *copies, int *is_out_of_memory)
{
    size_t length = copies->heap.count - copies->collection;
    if (length) {
        if (length < LEAST_COLLECTION) {
            size_t free_bytes = LEAST_COLLECTION - length < 16 ? 16 : LEAST_COLLECTION - length;
            Byte *entry = more(&copies->heap, free_bytes, 1);
            if (entry == NULL) {
                *is_out_of_memory = 1;
                return;
            }
            memset(entry, 0, free_bytes);
            put(entry + 8, free_bytes, 8);
        }
        put(copies->heap.items + copies->collection + 8, copies->heap.count - copies->collection, 8);
    }
    copies->collection = copies->heap.count, copies->objects = 0;
}

/* Take in the text that the reference at a place of the copy leads to. */
static int copy_text(Copies *copies, File *file, size_t reference)
{
    uint64_t length;
    const Byte *text = text_of(file, copies->out.items + reference, &length);
    if (text == NULL)
        return 0;
    if (length == 0) {
        memset(copies->out.items + reference, 0, REFERENCE);
        return 1;
    }
    int is_out_of_memory = 0;
    if (copies->heap.count - copies->collection >= COLLECTION || copies->objects >= MOST_OBJECTS)
        close_collection(copies, &is_out_of_memory);
    if (copies->heap.count == copies->collection) {
        Byte *head = more(&copies->heap, HEAP_HEAD, 1);
        if (head == NULL)
            return 0;
        memcpy(head, "GCOL\1\0\0\0\0\0\0\0\0\0\0\0", HEAP_HEAD);
    }
    size_t padded = (length + 7) / 8 * 8, *place = more(&copies->in_heap, 1, sizeof(size_t));
    Byte *entry = more(&copies->heap, HEAP_HEAD + padded, 1);
    if (is_out_of_memory || place == NULL || entry == NULL)
        return 0;
    copies->objects++;
    memset(entry, 0, HEAP_HEAD + padded);
    put(entry, copies->objects, 2);
    put(entry + 8, length, 8);
    memcpy(entry + HEAP_HEAD, text, length);
    put(copies->out.items + reference + 4, copies->collection, 8);
    put(copies->out.items + reference + 12, copies->objects, 4);
    *place = reference + 4;
    return 1;
}

/* Copy an array of references to texts; return its address, NOWHERE where that fails. */
static uint64_t copy_texts(Copies *copies, File *file, uint64_t address, uint64_t size)
{
    if (size > MOST_TEXT || size > file->data)
        return NOWHERE;
    file->data -= size;
    size_t start = copies->out.count;
    Byte *references = more(&copies->out, size, 1);
    if (references == NULL || !read_at(file, address, references, size))
        return NOWHERE;
    for (uint64_t i = 0; i < size; i += REFERENCE)
        if (!copy_text(copies, file, start + i))
            return NOWHERE;
    return copies->base + start;
}

/* Copy an object and all below it, but for its data; return its address. */
static uint64_t copy_object(Copies *copies, File *file, uint64_t address, int depth)
{
    Header header;
    uint64_t copy = NOWHERE;
    if (depth > DEEPEST || !read_header(file, address, &header))
        goto done;
    for (size_t i = 0; i < header.places.count; i++) {
        const Place *place = places_of(&header) + i;
        Byte *at = header.bytes + place->at;
        uint64_t moved = number_at(at, 8);
        if (place->kind == TO_OBJECT)
            moved = copy_object(copies, file, moved, depth + 1);
        else if (place->kind == TO_TEXTS)
            moved = copy_texts(copies, file, moved, place->size);
        if (moved == NOWHERE)
            goto done;
        put(at, moved, 8);
    }
    size_t start = copies->out.count;
    Byte *object = more(&copies->out, header.length, 1);
    Span *span = more(&copies->spans, 1, sizeof(Span));
    if (object == NULL || span == NULL)
        goto done;
    memcpy(object, header.bytes, header.length);
    *span = (Span){start, header.length - CHECKSUM};
    for (size_t i = 0; i < header.places.count; i++) {
        const Place *place = places_of(&header) + i;
        if (place->kind == TO_TEXT && !copy_text(copies, file, start + place->at - 4))
            goto done;
        if (place->kind == TO_DATA) {
            Extent *extent = more(&copies->extents, 1, sizeof(Extent));
            if (extent == NULL)
                goto done;
            *extent = (Extent){number_at(header.bytes + place->at, 8), place->size, start + place->at};
        }
    }
    copy = copies->base + start;
done:
    if (depth <= DEEPEST)
        release(&header);
    return copy;
}

static int in_order(const void *one, const void *other)
{
    const Extent *a = one, *b = other;
    if (a->address != b->address)
        return a->address < b->address ? -1 : 1;
    return a->size < b->size ? -1 : a->size > b->size;
}

/* Copy the data of an episode, which do not overlap. */
static int copy_data(Copies *copies, File *file)
{
    Extent *extents = (Extent *)copies->extents.items;
    size_t count = copies->extents.count, copy = 0;
    if (count)
        qsort(extents, count, sizeof(Extent), in_order);
    for (size_t i = 0; i < count; i++) {
        uint64_t address = extents[i].address, size = extents[i].size;
        int is_again = i && address == extents[i - 1].address && size == extents[i - 1].size;
        if (!is_again) {
            if (i && address - extents[i - 1].address < extents[i - 1].size)
                return 0;
            if (size > file->size)
                return 0;
            copy = copies->out.count;
            Byte *data = more(&copies->out, size, 1);
            if (data == NULL || !read_at(file, address, data, size))
                return 0;
        }
        put(copies->out.items + extents[i].at, copies->base + copy, 8);
    }
    return 1;
}

/* Copy an episode; return the address of its group, NOWHERE where it is left out. */
static uint64_t copy_episode(Copies *copies, File *file, uint64_t address)
{
    Copies before = *copies;
    copies->extents.count = 0;
    uint64_t copy = copy_object(copies, file, address, 0);
    if (copy == NOWHERE || !copy_data(copies, file)) {
        copy = NOWHERE;
        copies->out.count = before.out.count, copies->heap.count = before.heap.count;
        copies->collection = before.collection, copies->objects = before.objects;
        copies->in_heap.count = before.in_heap.count, copies->spans.count = before.spans.count;
    }
    forget_heap(file);
    return copy;
}

/* Give texts and checksums their places; false: there is no memory. */
static int finish(Copies *copies)
{
    int is_out_of_memory = 0;
    close_collection(copies, &is_out_of_memory);
    uint64_t heap = copies->base + copies->out.count;
    const size_t *places = (const size_t *)copies->in_heap.items;
    for (size_t i = 0; i < copies->in_heap.count; i++) {
        Byte *at = copies->out.items + places[i];
        put(at, number_at(at, 8) + heap, 8);
    }
    const Span *spans = (const Span *)copies->spans.items;
    for (size_t i = 0; i < copies->spans.count; i++) {
        Byte *start = copies->out.items + spans[i].at;
        put(start + spans[i].length, lookup3_of(start, spans[i].length), CHECKSUM);
    }
    return !is_out_of_memory;
}

/* -- comparing -------------------------------------------------------------------------------- */

typedef struct {
    File one, other;
    Byte *blocks; /* two of COMPARED bytes */
} Pair;

static int have_same_data(Pair *pair, uint64_t one, uint64_t other, uint64_t size)
{
    if (size > pair->one.data)
        return 0;
    pair->one.data -= size;
    for (uint64_t at = 0; at < size; at += COMPARED) {
        uint64_t length = size - at < COMPARED ? size - at : COMPARED;
        Byte *first = pair->blocks, *second = pair->blocks + COMPARED;
        if (!read_at(&pair->one, one + at, first, length) ||
            !read_at(&pair->other, other + at, second, length) || memcmp(first, second, length))
            return 0;
    }
    return 1;
}

static int have_same_text(Pair *pair, const Byte *one, const Byte *other)
{
    uint64_t lengths[2];
    const Byte *text = text_of(&pair->one, one, lengths);
    const Byte *copy = text_of(&pair->other, other, lengths + 1);
    return text != NULL && copy != NULL && lengths[0] == lengths[1] &&
           !memcmp(text, copy, lengths[0]);
}

static int have_same_texts(Pair *pair, uint64_t one, uint64_t other, uint64_t size)
{
    if (size > pair->one.data)
        return 0;
    pair->one.data -= size;
    for (uint64_t at = 0; at < size; at += REFERENCE) {
        Byte references[2][REFERENCE];
        if (!read_at(&pair->one, one + at, references[0], REFERENCE) ||
            !read_at(&pair->other, other + at, references[1], REFERENCE) ||
            !have_same_text(pair, references[0], references[1]))
            return 0;
    }
    return 1;
}

static int are_same(Pair *pair, uint64_t one, uint64_t other, int depth);

static int have_same_places(Pair *pair, const Header *one, const Header *other, int depth)
{
    const Place *places = places_of(one), *others = places_of(other);
    for (size_t i = 0; i < one->places.count; i++) {
        const Byte *at = one->bytes + places[i].at, *copy = other->bytes + others[i].at;
        uint64_t address = number_at(at, 8), copied = number_at(copy, 8), size = places[i].size;
        int is_same = 0;
        switch (places[i].kind) {
        case TO_OBJECT: is_same = are_same(pair, address, copied, depth + 1); break;
        case TO_DATA: is_same = have_same_data(pair, address, copied, size); break;
        case TO_TEXT: is_same = have_same_text(pair, at - 4, copy - 4); break;
        case TO_TEXTS: is_same = have_same_texts(pair, address, copied, size); break;
        }
        if (!is_same)
            return 0;
    }
    return 1;
}

/* Tell whether two headers are the same but for their places. */
static int have_same_bytes(const Header *one, const Header *other)
{
    const Place *places = places_of(one), *others = places_of(other);
    if (one->length != other->length || one->places.count != other->places.count)
        return 0;
    uint32_t at = 0;
    for (size_t i = 0; i <= one->places.count; i++) {
        uint32_t end = one->length - CHECKSUM;
        if (i < one->places.count) {
            if (places[i].kind != others[i].kind || places[i].at != others[i].at ||
                places[i].size != others[i].size || places[i].at < at)
                return 0;
            end = places[i].at;
        }
        if (memcmp(one->bytes + at, other->bytes + at, end - at))
            return 0;
        if (i < one->places.count)
            at = end + (places[i].kind == TO_TEXT ? REFERENCE - 4 : 8);
    }
    return 1;
}

/* Tell whether two objects are found to be the same, with all below them. */
static int are_same(Pair *pair, uint64_t one, uint64_t other, int depth)
{
    if (depth > DEEPEST)
        return 0;
    Header original, copy;
    int is_same = read_header(&pair->one, one, &original);
    is_same = read_header(&pair->other, other, &copy) && is_same;
    is_same = is_same && have_same_bytes(&original, &copy) &&
              have_same_places(pair, &original, &copy, depth);
    release(&original);
    release(&copy);
    return is_same;
}

/* -- outlines --------------------------------------------------------------------------------- */

/* Add a column's header to an outline, without what may differ from episode to episode. */
static int add_column(Array *outline, File *file, uint64_t address, uint64_t *rows)
{
    Header header;
    int is_added = 0;
    if (!read_header(file, address, &header) || header.is_group || header.rank == 0 ||
        is_text(header.type.body))
        goto done;
    Byte *space = (Byte *)header.space.body, *layout = (Byte *)header.layout.body;
    uint64_t here = number_at(space + 4, 8);
    if (layout[1] != 2 || (*rows != NOWHERE && *rows != here))
        goto done;
    *rows = here;
    memset(space + 4, 0, 8);
    if (space[2] && number_at(space + 4 + 8 * space[1], 8) != NOWHERE)
        memset(space + 4 + 8 * space[1], 0, 8);
    memset(layout + 5, 0, layout[4]); /* the chunk's rows; it has all there are */
    for (size_t i = 0; i < header.places.count; i++)
        if (places_of(&header)[i].kind == TO_DATA)
            memset(layout + header.layout.length - (layout[2] ? 20 : 8), 0, layout[2] ? 20 : 8);
        else
            goto done; /* an attribute that is text */
    Byte *end = header.bytes + header.length - CHECKSUM;
    for (Byte *at = messages_of(&header); at + 4 <= end; at += 4 + number_at(at + 1, 2))
        if (at[0] == ATTRIBUTE && number_at(at + 6, 2) == 6 && !memcmp(at + 13, "crc32", 6))
            memset(at + 13 + 6 + number_at(at + 8, 2) + number_at(at + 10, 2), 0,
                   number_at(at + 1, 2) - 9 - 6 - number_at(at + 8, 2) - number_at(at + 10, 2));
    Byte *copy = more(outline, header.length - CHECKSUM, 1);
    if (copy == NULL)
        goto done;
    memcpy(copy, header.bytes, header.length - CHECKSUM);
    is_added = 1;
done:
    release(&header);
    return is_added;
}

static int add_table(Array *outline, File *file, uint64_t address, uint64_t *rows)
{
    Header header;
    int is_added = 0;
    *rows = NOWHERE;
    if (!read_header(file, address, &header) || !header.is_group || !header.places.count)
        goto done;
    for (size_t i = 0; i < header.places.count; i++) {
        const Place *place = places_of(&header) + i;
        if (place->kind != TO_OBJECT)
            goto done;
        Byte *at = header.bytes + place->at;
        if (!add_column(outline, file, number_at(at, 8), rows))
            goto done;
        memset(at, 0, 8);
    }
    Byte *copy = more(outline, header.length - CHECKSUM, 1);
    if (copy == NULL)
        goto done;
    memcpy(copy, header.bytes, header.length - CHECKSUM);
    is_added = 1;
done:
    release(&header);
    return is_added;
}

/* -- all of an object ------------------------------------------------------------------------- */

/* Tell whether a dataset's filters, if any, are those that HDF5 itself has. */
static int are_stock(const Message *filters)
{
    enum { DEFLATE = 1, SHUFFLE = 2 };
    const Byte *at = filters->body;
    uint32_t left = filters->length;
    if (left == 0)
        return 1;
    if (left < 2 || at[0] != 2)
        return 0;
    int count = at[1];
    for (at += 2, left -= 2; count--;) {
        uint32_t size = left < 6 ? 0 : 6 + 4 * (uint32_t)number_at(at + 4, 2);
        if (size == 0 || size > left || number_at(at, 2) < DEFLATE || number_at(at, 2) > SHUFFLE)
            return 0;
        at += size, left -= size;
    }
    return left == 0;
}

/* Tell whether so many references lead to texts. */
static int are_texts(File *file, uint64_t address, uint64_t count)
{
    Byte reference[REFERENCE];
    for (uint64_t length; count--; address += REFERENCE)
        if (!read_at(file, address, reference, REFERENCE) || !text_of(file, reference, &length))
            return 0;
    return 1;
}

/* Tell whether an object and all below it is understood. */
static int is_all_known(File *file, uint64_t address, int depth)
{
    if (depth > DEEPEST)
        return 0;
    Header header;
    int is_known = read_header(file, address, &header) && are_stock(&header.filters);
    for (size_t i = 0; is_known && i < header.places.count; i++) {
        const Place *place = places_of(&header) + i;
        const Byte *at = header.bytes + place->at;
        uint64_t length;
        if (place->kind == TO_OBJECT)
            is_known = is_all_known(file, number_at(at, 8), depth + 1);
        else if (place->kind == TO_TEXT)
            is_known = text_of(file, at - 4, &length) != NULL;
        else if (place->kind == TO_TEXTS)
            is_known = are_texts(file, number_at(at, 8), place->size / REFERENCE);
    }
    release(&header);
    return is_known;
}

/* -- Python ----------------------------------------------------------------------------------- */

static File file_of(int fd, unsigned long long size)
{
    return (File){.fd = fd, .size = size, .headers = size, .data = 2 * size, .collection = NOWHERE};
}

static PyObject *joined(const Copies *copies)
{
    size_t before = copies->out.count, length = before + copies->heap.count;
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)length);
    if (bytes != NULL) {
        if (before)
            memcpy(PyBytes_AsString(bytes), copies->out.items, before);
        if (copies->heap.count)
            memcpy(PyBytes_AsString(bytes) + before, copies->heap.items, copies->heap.count);
    }
    return bytes;
}

static int copy_next(Copies *copies, PyObject *given, PyObject *addresses)
{
    int fd;
    unsigned long long size, address;
    if (!PyArg_ParseTuple(given, "iKK", &fd, &size, &address))
        return 0;
    File file = file_of(fd, size);
    uint64_t copy;
    Py_BEGIN_ALLOW_THREADS
    file.window = malloc(WINDOW);
    copy = copy_episode(copies, &file, address);
    free(file.window);
    Py_END_ALLOW_THREADS
    PyObject *found = copy == NOWHERE ? PyLong_FromLong(-1) : PyLong_FromUnsignedLongLong(copy);
    int is_listed = found != NULL && PyList_Append(addresses, found) == 0;
    Py_XDECREF(found);
    return is_listed;
}

static PyObject *copied(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *episodes, *bytes = NULL, *addresses = NULL;
    unsigned long long base;
    if (!PyArg_ParseTuple(args, "O!K", &PyList_Type, &episodes, &base))
        return NULL;
    Copies copies = {.base = base};
    addresses = PyList_New(0);
    int is_done = addresses != NULL;
    for (Py_ssize_t i = 0; is_done && i < PyList_Size(episodes); i++)
        is_done = copy_next(&copies, PyList_GetItem(episodes, i), addresses);
    if (is_done)
        bytes = finish(&copies) ? joined(&copies) : PyErr_NoMemory();
    free(copies.out.items);
    free(copies.heap.items);
    free(copies.in_heap.items);
    free(copies.spans.items);
    free(copies.extents.items);
    PyObject *both = bytes == NULL ? NULL : Py_BuildValue("OO", bytes, addresses);
    Py_XDECREF(bytes);
    Py_XDECREF(addresses);
    return both;
}

static PyObject *is_same(PyObject *Py_UNUSED(module), PyObject *args)
{
    int fd, copy_fd, found;
    unsigned long long size, address, copy_size, copy_address;
    if (!PyArg_ParseTuple(args, "iKKiKK", &fd, &size, &address, &copy_fd, &copy_size, &copy_address))
        return NULL;
    Pair pair = {file_of(fd, size), file_of(copy_fd, copy_size), malloc(2 * COMPARED)};
    if (pair.blocks == NULL)
        return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS
    pair.one.window = malloc(WINDOW);
    pair.other.window = malloc(WINDOW);
    found = are_same(&pair, address, copy_address, 0);
    forget_heap(&pair.one);
    forget_heap(&pair.other);
    free(pair.one.window);
    free(pair.other.window);
    free(pair.blocks);
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(found);
}

/* Tell the reader of a file where a part of it is in memory. */
static void use(File *file, const char *start, Py_ssize_t length)
{
    if (length)
        file->window = (Byte *)start, file->first = 0, file->length = (uint64_t)length;
}

static PyObject *outline(PyObject *Py_UNUSED(module), PyObject *args)
{
    int fd, is_known;
    unsigned long long size, address;
    const char *start;
    Py_ssize_t length;
    uint64_t rows;
    if (!PyArg_ParseTuple(args, "iKKy#", &fd, &size, &address, &start, &length))
        return NULL;
    File file = file_of(fd, size);
    use(&file, start, length);
    Array bytes = {0};
    Py_BEGIN_ALLOW_THREADS
    is_known = add_table(&bytes, &file, address, &rows);
    Py_END_ALLOW_THREADS
    PyObject *found = is_known ? Py_BuildValue("y#K", bytes.items, (Py_ssize_t)bytes.count, rows)
                               : Py_NewRef(Py_None);
    free(bytes.items);
    return found;
}

static int add_member(PyObject *members, const Byte *name, uint64_t length, uint64_t address)
{
    PyObject *key = PyBytes_FromStringAndSize((const char *)name, (Py_ssize_t)length);
    PyObject *value = PyLong_FromUnsignedLongLong(address);
    int is_added = key != NULL && value != NULL && PyDict_SetItem(members, key, value) == 0;
    Py_XDECREF(key);
    Py_XDECREF(value);
    return is_added;
}

/* Add an attribute to a list: what says its name, type and shape, and its value, a text itself. */
static int add_value(PyObject *attributes, File *file, const Byte *body, uint64_t length)
{
    uint64_t type = 9 + number_at(body + 2, 2), space = type + number_at(body + 4, 2);
    uint64_t start = space + number_at(body + 6, 2);
    const Byte *value = body + start;
    length -= start;
    if (is_text(body + type)) {
        if (length != REFERENCE || (value = text_of(file, value, &length)) == NULL)
            return 0;
    }
    PyObject *both = Py_BuildValue("y#y#", body, (Py_ssize_t)start, value, (Py_ssize_t)length);
    int is_added = both != NULL && PyList_Append(attributes, both) == 0;
    Py_XDECREF(both);
    return is_added;
}

static int add_content(PyObject *members, PyObject *attributes, File *file, const Header *header)
{
    for (size_t i = 0; i < header->places.count; i++) {
        const Place *place = places_of(header) + i;
        const Byte *at = header->bytes + place->at;
        if (place->kind == TO_OBJECT &&
            !add_member(members, at - place->size, place->size, number_at(at, 8)))
            return 0;
    }
    const Byte *end = header->bytes + header->length - CHECKSUM;
    for (const Byte *at = messages_of(header); at + 4 <= end; at += 4 + number_at(at + 1, 2))
        if (at[0] == ATTRIBUTE && !add_value(attributes, file, at + 4, number_at(at + 1, 2)))
            return 0;
    return 1;
}

static PyObject *group(PyObject *Py_UNUSED(module), PyObject *args)
{
    int fd;
    unsigned long long size, address;
    const char *start;
    Py_ssize_t length;
    if (!PyArg_ParseTuple(args, "iKKy#", &fd, &size, &address, &start, &length))
        return NULL;
    File file = file_of(fd, size);
    use(&file, start, length);
    Header header;
    PyObject *members = PyDict_New(), *attributes = PyList_New(0), *both = NULL;
    if (members != NULL && attributes != NULL) {
        int is_known = read_header(&file, address, &header) && header.is_group &&
                       add_content(members, attributes, &file, &header);
        if (is_known)
            both = Py_BuildValue("OO", members, attributes);
        else if (PyErr_Occurred() == NULL)
            both = Py_NewRef(Py_None);
        release(&header);
        forget_heap(&file);
    }
    Py_XDECREF(members);
    Py_XDECREF(attributes);
    return both;
}

static PyObject *is_known(PyObject *Py_UNUSED(module), PyObject *args)
{
    int fd, found;
    unsigned long long size, address;
    if (!PyArg_ParseTuple(args, "iKK", &fd, &size, &address))
        return NULL;
    File file = file_of(fd, size);
    Py_BEGIN_ALLOW_THREADS
    file.window = malloc(WINDOW);
    found = is_all_known(&file, address, 0);
    forget_heap(&file);
    free(file.window);
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(found);
}

static PyMethodDef methods[] = {
    {"copied", copied, METH_VARARGS,
     "copied($module, episodes, base, /)\n--\n\nReturn copies of episodes (descriptor, size, address "
     "of the group) as bytes that go to `base`, and their addresses, -1 for what is left out."},
    {"is_same", is_same, METH_VARARGS,
     "is_same($module, fd, size, address, copy_fd, copy_size, copy_address, /)\n--\n\nTell whether "
     "an episode was found to be the same as another."},
    {"group", group, METH_VARARGS,
     "group($module, fd, size, address, start, /)\n--\n\nReturn the members of a group by name, and "
     "its attributes: what says what each is, and its value; None for one that is not understood. "
     "`start` are bytes at the start of the file, or none."},
    {"outline", outline, METH_VARARGS,
     "outline($module, fd, size, address, start, /)\n--\n\nReturn the headers of a table without rows, "
     "addresses and digests, and its rows; None for one that is not understood."},
    {"is_known", is_known, METH_VARARGS,
     "is_known($module, fd, size, address, /)\n--\n\nTell whether an object and all below it is as "
     "short shards have it, so that HDF5 can read it."},
    {NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_stored_episode", NULL, 0, methods};

PyMODINIT_FUNC PyInit__stored_episode(void) { return PyModuleDef_Init(&module); }
