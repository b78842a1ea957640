/* The objects of a short shard, read from its bytes: headers, and the places that they lead to.

   Everything is read by `pread` into memory of its own, and the checksum of a header is compared
   before it is looked at. Source: HDF5 File Format Specification 3.0. Invariant: nothing in a file
   makes this read outside of what it was given, or go on for longer than the file is large; whatever
   `WholeShard` does not write is not understood. */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "_lookup3.h"

enum { DATASPACE = 1, LINK_INFO = 2, DATATYPE = 3, FILL = 5, LINK = 6, LAYOUT = 8 };
enum { GROUP_INFO = 10, FILTERS = 11, ATTRIBUTE = 12, ATTRIBUTE_INFO = 21 };
enum { VARIABLE_LENGTH = 9 };
enum { SINGLE_CHUNK = 1, EXTENSIBLE_ARRAY = 4 };

enum { DEEPEST = 64, MOST_LINKS = 256, MOST_RANK = 32 };
enum { FIRST_BYTES = 512, CHECKSUM = 4, REFERENCE = 16, HEAP_HEAD = 16 };
enum { WINDOW = 64 * 1024 };
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
    int is_there = address >= file->first && address + length <= file->first + file->length;
    if (!is_there && (file->window == NULL || length > WINDOW / 4))
        return pread_all(file, address, to, length);
    if (!is_there) {
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
            if (number == 0 && length != size - at)
                return 0;
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
    if (number >= file->numbers || file->texts[number].length != *length)
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
    Message space, type, fill, filters, layout; /* of a dataset */
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

/* Tell whether a datatype is one of those that `stored_types` knows, but for compounds. */
static int is_plain(const Byte *type, uint32_t length)
{
    static const Byte floats[3][20] = {
        {0x11, 0x20, 15, 0, 2, [10] = 16, 0, 10, 5, 0, 10, 15},
        {0x11, 0x20, 31, 0, 4, [10] = 32, 0, 23, 8, 0, 23, 127},
        {0x11, 0x20, 63, 0, 8, [10] = 64, 0, 52, 11, 0, 52, 0xff, 3},
    };
    /* An enumeration of FALSE and TRUE; of version 1 names are padded to 8 bytes. */
    static const Byte boolean[38] = {0x18, 2, 0, 0, 1, [8] = 0x10, 8, 0, 0, 1, [18] = 8,
                                     [20] = 'F', 'A', 'L', 'S', 'E', [28] = 'T', 'R', 'U', 'E', [37] = 1};
    static const Byte dense[33] = {0x38, 2, 0, 0, 1, [8] = 0x10, 8, 0, 0, 1, [18] = 8,
                                   [20] = 'F', 'A', 'L', 'S', 'E', [26] = 'T', 'R', 'U', 'E', [32] = 1};
    static const Byte text[20] = {0x19, 1, 0, 0, REFERENCE, [8] = 0x10, 0, 0, 0, 1, [18] = 8};
    if (length == 8 && type[0] == 0x13)
        return (type[1] | 0x10) == 0x11 && !type[2] && !type[3] && number_at(type + 4, 4) &&
               number_at(type + 4, 4) < 1u << 31;
    if (length == 12 && type[0] == 0x10) {
        uint64_t size = number_at(type + 4, 4);
        return (size == 1 || size == 2 || size == 4 || size == 8) && !(type[1] & ~8) && !type[2] &&
               !type[3] && number_at(type + 8, 2) == 0 && number_at(type + 10, 2) == 8 * size;
    }
    if (length == sizeof text && type[0] == 0x19)
        return !(type[2] & ~1) && !memcmp(type, text, 2) && !memcmp(type + 3, text + 3, 17);
    for (int i = 0; i < 3; i++)
        if (length == sizeof floats[i] && !memcmp(type, floats[i], length))
            return 1;
    return (length == sizeof boolean && !memcmp(type, boolean, length)) ||
           (length == sizeof dense && !memcmp(type, dense, length));
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

/* Tell whether a link's name is one, not a path that leads elsewhere. */
static int is_name(const Byte *name, uint64_t length)
{
    if (memchr(name, '/', length) != NULL || memchr(name, 0, length) != NULL)
        return 0;
    return name[0] != '.' || (length > 1 && (length > 2 || name[1] != '.'));
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
    if (header->places.count >= MOST_LINKS || !is_name(body + length - 8 - name, name))
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
    const Byte *fill = header->fill.body;
    if (is_text(type) && (header->fill.length != 2 || fill[0] != 3))
        return 0; /* its fill value would lead elsewhere */
    if (header->fill.length && header->fill.length < 2)
        return 0;
    if (header->fill.length && (fill[0] != 3 || header->fill.length != (fill[1] & 0x20 ? 6 + item : 2)))
        return 0;
    if (header->fill.length > 2 && number_at(fill + 2, 4) != item)
        return 0;
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

/* Return where the first message of a header is. */
static Byte *messages_of(const Header *header)
{
    Byte flags = header->bytes[5];
    return header->bytes + 6 + (flags & 0x10 ? 4 : 0) + (1 << (flags & 3));
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
        case FILTERS: header->filters = whole; break;
        case GROUP_INFO: break;
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
