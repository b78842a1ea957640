/* Episodes as short shards have them: copied, compared and outlined as bytes; see stored_episode.py.

   Everything is read by `pread` into memory of its own, and the checksum of a header is compared
   before it is looked at. Source: HDF5 File Format Specification 3.0. Invariant: nothing
   in a file makes this read outside of what it was given, or go on for longer than the file is
   large; whatever `WholeShard` does not write is not understood, and left to Python. */

#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "_lookup3.h"

enum { DATASPACE = 1, LINK_INFO = 2, DATATYPE = 3, FILL = 5, LINK = 6, LAYOUT = 8 };
enum { GROUP_INFO = 10, FILTERS = 11, ATTRIBUTE = 12, ATTRIBUTE_INFO = 21 };
enum { FIXED_POINT = 0, FLOATING_POINT = 1, STRING = 3, ENUMERATION = 8, VARIABLE_LENGTH = 9 };
enum { SINGLE_CHUNK = 1, EXTENSIBLE_ARRAY = 4 };

enum { DEEPEST = 64, MOST_LINKS = 256, MOST_RANK = 32 };
enum { FIRST_BYTES = 512, CHECKSUM = 4, REFERENCE = 16, HEAP_HEAD = 16 };
enum { COLLECTION = 32 * 1024, LEAST_COLLECTION = 4096, MOST_OBJECTS = 60000 };
enum { COMPARED = 64 * 1024, WINDOW = 64 * 1024 };
#define MOST_HEADER (1u << 20)
#define MOST_TEXT (16u << 20) /* of one heap, or of one array of references */
#define MOST_CHUNK (1u << 30)
#define NOWHERE UINT64_MAX

typedef unsigned char Byte;

static uint64_t number_at(const Byte *p, int width)
{
    uint64_t number = 0;
    while (width--)
        number = number << 8 | p[width];
    return number;
}

static void put(Byte *p, uint64_t number, int width)
{
    for (; width--; number >>= 8)
        *p++ = (Byte)number;
}

/* An array that grows; `items` stays what it was where there is no memory. */
typedef struct {
    Byte *items;
    size_t count, room;
} Array;

static void *more(Array *array, size_t count, size_t size)
{
    if (count > array->room - array->count) {
        size_t room = array->count + count > 2 * array->room ? array->count + count : 2 * array->room;
        Byte *items = realloc(array->items, room * size);
        if (items == NULL)
            return NULL;
        array->items = items, array->room = room;
    }
    void *first = array->items + array->count * size;
    array->count += count;
    return first;
}

/* -- files ------------------------------------------------------------------------------------ */

typedef struct {
    uint64_t offset, length; /* in a collection */
} Text;

typedef struct {
    int fd;
    uint64_t size;
    uint64_t headers, data; /* bytes that may be read yet */
    Byte *window;           /* a part that is in memory, NULL where there is none */
    uint64_t first, length; /* of it */
    uint64_t collection;    /* the one that is in memory */
    Byte *heap;
    Text *texts; /* by number */
    size_t numbers;
} File;

static int pread_all(const File *file, uint64_t address, void *to, uint64_t length)
{
    for (Byte *p = to; length;) {
        ssize_t got = pread(file->fd, p, length, (off_t)address);
        if (got <= 0 && !(got < 0 && errno == EINTR))
            return 0;
        if (got > 0)
            p += got, address += got, length -= got;
    }
    return 1;
}

static int read_at(File *file, uint64_t address, void *to, uint64_t length)
{
    if (length > file->size || address > file->size - length)
        return 0;
    if (file->window == NULL || length > WINDOW / 4)
        return pread_all(file, address, to, length);
    if (address < file->first || address + length > file->first + file->length) {
        /* Headers lie side by side, that of a group behind those of its members. */
        uint64_t first = address < WINDOW / 2 ? 0 : address - WINDOW / 2, rest = file->size - first;
        file->first = first, file->length = 0;
        if (!pread_all(file, first, file->window, rest < WINDOW ? rest : WINDOW))
            return 0;
        file->length = rest < WINDOW ? rest : WINDOW;
    }
    memcpy(to, file->window + (address - file->first), length);
    return 1;
}

static void forget_heap(File *file)
{
    free(file->heap);
    free(file->texts);
    file->heap = NULL, file->texts = NULL, file->numbers = 0, file->collection = NOWHERE;
}

/* Bring a global heap collection into memory; the last text of a number counts, as for HDF5. */
static int load_heap(File *file, uint64_t address)
{
    Byte head[HEAP_HEAD];
    forget_heap(file);
    if (!read_at(file, address, head, HEAP_HEAD) || memcmp(head, "GCOL\1", 5))
        return 0;
    uint64_t size = number_at(head + 8, 8);
    if (size < HEAP_HEAD || size > MOST_TEXT || size > file->data)
        return 0;
    file->data -= size;
    file->heap = malloc(size);
    if (file->heap == NULL || !read_at(file, address, file->heap, size))
        return 0;
    for (int is_noted = 0; is_noted < 2; is_noted++) {
        uint64_t at = HEAP_HEAD;
        while (size - at >= HEAP_HEAD) {
            const Byte *entry = file->heap + at;
            size_t number = number_at(entry, 2);
            uint64_t length = number_at(entry + 8, 8);
            if (number == 0)
                break; /* the free space comes last */
            if (length > size - at - HEAP_HEAD)
                return 0;
            if (is_noted)
                file->texts[number] = (Text){at + HEAP_HEAD, length};
            else if (number >= file->numbers)
                file->numbers = number + 1;
            at += HEAP_HEAD + (length + 7) / 8 * 8;
            if (at > size)
                break;
        }
        if (!is_noted && (file->texts = calloc(file->numbers + 1, sizeof(Text))) == NULL)
            return 0;
    }
    file->collection = address;
    return 1;
}

/* Return the text that a reference leads to, NULL where it cannot be found; length 0 has none. */
static const Byte *text_of(File *file, const Byte *reference, uint64_t *length)
{
    *length = number_at(reference, 4);
    uint64_t address = number_at(reference + 4, 8), number = number_at(reference + 12, 4);
    if (*length == 0)
        return (const Byte *)"";
    if (address != file->collection && !load_heap(file, address))
        return NULL;
    if (number >= file->numbers || file->texts[number].length < *length)
        return NULL;
    return file->heap + file->texts[number].offset;
}

/* -- headers ---------------------------------------------------------------------------------- */

/* What depends on where things are in the file. */
typedef struct {
    enum { TO_OBJECT, TO_DATA, TO_TEXT, TO_TEXTS } kind;
    uint32_t at; /* of an address in the header */
    uint64_t size;
} Place;

typedef struct {
    const Byte *body;
    uint32_t length;
} Message;

typedef struct {
    Byte *bytes;
    uint32_t length; /* with the checksum */
    Array places;
    int is_group;
    Message space, type, fill, layout; /* of a dataset */
    int rank;
    Byte first[FIRST_BYTES];
} Header;

static void release(Header *header)
{
    if (header->bytes != header->first)
        free(header->bytes);
    free(header->places.items);
}

static const Place *places_of(const Header *header) { return (const Place *)header->places.items; }

static int add_place(Header *header, int kind, const Byte *at, uint64_t size)
{
    Place *place = more(&header->places, 1, sizeof(Place));
    if (place != NULL)
        *place = (Place){kind, (uint32_t)(at - header->bytes), size};
    return place != NULL;
}

/* Return the elements of a dataspace, -1 for one that is not understood. */
static int64_t elements_of(const Byte *space, uint32_t length)
{
    if (length < 4 || space[0] != 2 || space[1] > MOST_RANK || space[2] > 1 || space[3] > 1)
        return -1;
    if (space[3] != (space[1] != 0) || length != 4u + 8u * space[1] * (1 + space[2]))
        return -1;
    uint64_t count = 1;
    for (int i = 0; i < space[1]; i++) {
        uint64_t extent = number_at(space + 4 + 8 * i, 8);
        if (__builtin_mul_overflow(count, extent, &count) || count > (1ull << 40))
            return -1;
    }
    return (int64_t)count;
}

/* Tell whether a datatype is of one piece: nothing in it leads elsewhere, but for text. */
static int is_plain(const Byte *type, uint32_t length)
{
    int class = length < 8 ? -1 : type[0] & 15;
    return class == FIXED_POINT || class == FLOATING_POINT || class == STRING ||
           class == ENUMERATION ||
           (class == VARIABLE_LENGTH && (type[1] & 15) == 1 && number_at(type + 4, 4) == REFERENCE);
}

static int is_text(const Byte *type) { return (type[0] & 15) == VARIABLE_LENGTH; }

static int add_attribute(Header *header, const Byte *body, uint32_t length)
{
    if (length < 9 || body[0] != 3 || body[1] != 0)
        return 0;
    uint32_t name = number_at(body + 2, 2), type = number_at(body + 4, 2);
    uint32_t space = number_at(body + 6, 2), start = 9 + name + type + space;
    if (start > length || !is_plain(body + 9 + name, type))
        return 0;
    int64_t count = elements_of(body + 9 + name + type, space);
    uint64_t size = number_at(body + 9 + name + 4, 4);
    if (count < 0 || size == 0 || (uint64_t)count > MOST_HEADER || count * size != length - start)
        return 0;
    for (int64_t i = 0; is_text(body + 9 + name) && i < count; i++)
        if (!add_place(header, TO_TEXT, body + start + REFERENCE * i + 4, 0))
            return 0;
    return 1;
}

static int add_link(Header *header, const Byte *body, uint32_t length)
{
    if (length < 3 || body[0] != 1 || body[1] & ~0x13)
        return 0;
    uint32_t place = 2 + (body[1] & 0x10 ? 1 : 0), width = 1u << (body[1] & 3);
    if (length < place + width + 8)
        return 0;
    uint64_t name = number_at(body + place, width);
    if (name == 0 || name != length - place - width - 8)
        return 0;
    if (header->places.count >= MOST_LINKS)
        return 0;
    return add_place(header, TO_OBJECT, body + length - 8, name);
}

/* Tell whether two links have one name. */
static int has_name_twice(const Header *header)
{
    const Place *places = places_of(header);
    for (size_t i = 0; i < header->places.count; i++)
        for (size_t j = 0; places[i].kind == TO_OBJECT && j < i; j++)
            if (places[j].kind == TO_OBJECT && places[i].size == places[j].size &&
                !memcmp(header->bytes + places[i].at - places[i].size,
                        header->bytes + places[j].at - places[j].size, places[i].size))
                return 1;
    return 0;
}

/* Find where a dataset's data are. */
static int add_data(Header *header)
{
    const Byte *space = header->space.body, *type = header->type.body, *layout = header->layout.body;
    uint32_t length = header->layout.length;
    int64_t count = elements_of(space, header->space.length);
    uint64_t item = number_at(type + 4, 4), size;
    header->rank = space[1];
    if (count < 0 || item == 0 || __builtin_mul_overflow((uint64_t)count, item, &size))
        return 0;
    if (is_text(type) && (header->fill.length != 2 || header->fill.body[0] != 3))
        return 0; /* its fill value would lead elsewhere */
    if (length == 18 && (layout[0] == 3 || layout[0] == 4) && layout[1] == 1) {
        uint64_t address = number_at(layout + 2, 8);
        if (number_at(layout + 10, 8) != size || (size == 0) != (address == NOWHERE))
            return 0;
        return size == 0 || add_place(header, is_text(type) ? TO_TEXTS : TO_DATA, layout + 2, size);
    }
    if (length < 6 || layout[0] != 4 || layout[1] != 2 || is_text(type))
        return 0;
    uint32_t rank = layout[3], width = layout[4], at = 5 + rank * width;
    if (rank != header->rank + 1u || rank < 2 || width < 1 || width > 8 || length < at + 9)
        return 0;
    uint64_t address = number_at(layout + length - 8, 8), chunk = 1;
    for (uint32_t i = 0; i < rank; i++) {
        uint64_t extent = number_at(layout + 5 + i * width, width);
        uint64_t wanted = i < rank - 1 ? number_at(space + 4 + 8 * i, 8) : item;
        if (extent < wanted || (i == rank - 1 && extent != item) || extent == 0 ||
            __builtin_mul_overflow(chunk, extent, &chunk) || chunk > MOST_CHUNK)
            return 0;
    }
    if (address == NOWHERE)
        return count == 0 && (layout[at] == SINGLE_CHUNK || layout[at] == EXTENSIBLE_ARRAY);
    if (layout[at] != SINGLE_CHUNK || layout[2] & ~2)
        return 0;
    if (layout[2] == 0)
        return length == at + 9 && add_place(header, TO_DATA, layout + at + 1, chunk);
    return length == at + 21 &&
           add_place(header, TO_DATA, layout + at + 13, number_at(layout + at + 1, 8));
}

static int by_place(const void *one, const void *other)
{
    uint32_t a = ((const Place *)one)->at, b = ((const Place *)other)->at;
    return a < b ? -1 : a > b;
}

static int add_messages(Header *header, uint32_t start)
{
    static const Byte compact[18] = {0, 0, [2 ... 17] = 0xff};
    uint32_t seen = 0, end = header->length - CHECKSUM;
    for (uint32_t at = start; at + 4 <= end;) {
        const Byte *message = header->bytes + at, *body = message + 4;
        uint32_t kind = message[0], length = number_at(message + 1, 2);
        if (message[3] & ~1 || kind > ATTRIBUTE_INFO || length > end - at - 4)
            return 0;
        if (kind != LINK && kind != ATTRIBUTE && seen >> kind & 1)
            return 0;
        seen |= 1u << kind;
        Message whole = {body, length};
        switch (kind) {
        case DATASPACE: header->space = whole; break;
        case DATATYPE: header->type = whole; break;
        case FILL: header->fill = whole; break;
        case LAYOUT: header->layout = whole; break;
        case GROUP_INFO: case FILTERS: break;
        case LINK_INFO: case ATTRIBUTE_INFO:
            if (length != sizeof compact || memcmp(body, compact, length))
                return 0;
            break;
        case LINK:
            if (!add_link(header, body, length))
                return 0;
            break;
        case ATTRIBUTE:
            if (!add_attribute(header, body, length))
                return 0;
            break;
        default: return 0;
        }
        at += 4 + length;
    }
    const uint32_t either = 1u << ATTRIBUTE | 1u << ATTRIBUTE_INFO;
    const uint32_t of_group = either | 1u << LINK_INFO | 1u << LINK | 1u << GROUP_INFO;
    const uint32_t needed = 1u << DATASPACE | 1u << DATATYPE | 1u << LAYOUT;
    header->is_group = seen >> LINK_INFO & 1;
    if (header->is_group)
        return !(seen & ~of_group) && !has_name_twice(header);
    return !(seen & ~(either | needed | 1u << FILL | 1u << FILTERS)) && !(needed & ~seen) &&
           is_plain(header->type.body, header->type.length) && add_data(header);
}

/* Read the header of an object, which is all in one block; `release` it in any case. */
static int read_header(File *file, uint64_t address, Header *header)
{
    memset(header, 0, offsetof(Header, first));
    header->bytes = header->first;
    if (address >= file->size)
        return 0;
    uint64_t rest = file->size - address, there = rest < FIRST_BYTES ? rest : FIRST_BYTES;
    if (there < 16 || !read_at(file, address, header->first, there))
        return 0;
    if (memcmp(header->first, "OHDR\2", 5) || header->first[5] & ~0x13)
        return 0;
    uint32_t width = 1u << (header->first[5] & 3), start = header->first[5] & 0x10 ? 10 : 6;
    uint64_t body = start + width <= there ? number_at(header->first + start, width) : MOST_HEADER;
    if (body >= MOST_HEADER)
        return 0;
    header->length = start + width + (uint32_t)body + CHECKSUM;
    if (header->length > file->headers)
        return 0;
    file->headers -= header->length;
    if (header->length > there) {
        Byte *whole = malloc(header->length);
        if (whole == NULL)
            return 0;
        header->bytes = whole;
        if (!read_at(file, address, whole, header->length))
            return 0;
    }
    const Byte *checksum = header->bytes + header->length - CHECKSUM;
    if (lookup3_of(header->bytes, header->length - CHECKSUM) != number_at(checksum, 4) ||
        !add_messages(header, start + width))
        return 0;
    if (header->places.count)
        qsort(header->places.items, header->places.count, sizeof(Place), by_place);
    return 1;
}

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
    for (Byte *at = header.bytes + 6 + (header.bytes[5] & 0x10 ? 4 : 0) + (1 << (header.bytes[5] & 3));
         at + 4 <= end; at += 4 + number_at(at + 1, 2))
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

static PyObject *outline(PyObject *Py_UNUSED(module), PyObject *args)
{
    int fd, is_known;
    unsigned long long size, address;
    uint64_t rows;
    if (!PyArg_ParseTuple(args, "iKK", &fd, &size, &address))
        return NULL;
    File file = file_of(fd, size);
    Array bytes = {0};
    Py_BEGIN_ALLOW_THREADS
    is_known = add_table(&bytes, &file, address, &rows);
    Py_END_ALLOW_THREADS
    PyObject *found = is_known ? Py_BuildValue("y#K", bytes.items, (Py_ssize_t)bytes.count, rows)
                               : Py_NewRef(Py_None);
    free(bytes.items);
    return found;
}

static PyMethodDef methods[] = {
    {"copied", copied, METH_VARARGS,
     "copied($module, episodes, base, /)\n--\n\nReturn copies of episodes (descriptor, size, address "
     "of the group) as bytes that go to `base`, and their addresses, -1 for what is left out."},
    {"is_same", is_same, METH_VARARGS,
     "is_same($module, fd, size, address, copy_fd, copy_size, copy_address, /)\n--\n\nTell whether "
     "an episode was found to be the same as another."},
    {"outline", outline, METH_VARARGS,
     "outline($module, fd, size, address, /)\n--\n\nReturn the headers of a table without rows, "
     "addresses and digests, and its rows; None for one that is not understood."},
    {NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_stored_episode", NULL, 0, methods};

PyMODINIT_FUNC PyInit__stored_episode(void) { return PyModuleDef_Init(&module); }
