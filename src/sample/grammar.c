/* grammar.c - states of a grammar: sets of stacks, moved on byte by byte.
 *
 *     root ::= "a" list "z"         after "a":   stack  [list: 'x'] ─► [root: 'z']
 *     list ::= "x" list | ""                     stack  [root: 'z']        (the list is empty)
 *
 * A stack is a chain of nodes; chains share their lower parts, and a node that would be made twice is made
 * once, so that ambiguous grammars stay small. A rule called last in a sequence leaves nothing behind
 * to return to: lists of any length keep their stacks short. Tests of tokens work above the nodes
 * of the state and take theirs away again. */
#include "sample/grammar_internal.h"

#include "base/mem.h"
#include "text/vocab.h"

#include <string.h>

#define MOST_NODES  65536
#define MOST_STACKS 4096
#define MOST_DEPTH  512 /* of rules entered without a byte */
#define WHOLE       (-1)

static int32_t add_node(mica_grammar_state *s, int32_t element, int32_t parent)
{
    const size_t look = s->node_count > 256 ? s->node_count - 256 : 0;
    for (size_t i = s->node_count; i > look; i--)
        if (s->nodes[i - 1].element == element && s->nodes[i - 1].parent == parent)
            return (int32_t)(i - 1);
    if (s->node_count >= MOST_NODES || !mica_array_reserve((void **)&s->nodes, &s->node_cap,
                                                           s->node_count + 1, sizeof *s->nodes)) {
        s->overflow = true;
        return 0;
    }
    s->nodes[s->node_count] = (mica_grammar_node){element, parent};
    return (int32_t)s->node_count++;
}

static void add_stack(mica_grammar_state *s, size_t first, int32_t element, int32_t parent)
{
    const int32_t node = add_node(s, element, parent);
    for (size_t i = first; i < s->stack_count; i++)
        if (s->stacks[i] == node)
            return;
    if (s->stack_count - first >= MOST_STACKS ||
        !mica_array_reserve((void **)&s->stacks, &s->stack_cap, s->stack_count + 1,
                            sizeof *s->stacks)) {
        s->overflow = true;
        return;
    }
    s->stacks[s->stack_count++] = node;
}

/* Stacks from `first` on receive every place that is reached from an element without a byte. */
static void enter(mica_grammar_state *s, size_t first, int32_t element, int32_t parent, int depth)
{
    const grammar_element *elements = s->grammar->elements;
    if (depth > MOST_DEPTH || s->overflow) {
        s->overflow = true;
        return;
    }
    while (elements[element].kind == GRAMMAR_END) {
        if (parent < 0) {
            add_stack(s, first, WHOLE, -1);
            return;
        }
        element = s->nodes[parent].element;
        parent = s->nodes[parent].parent;
    }
    if (elements[element].kind == GRAMMAR_BYTES) {
        add_stack(s, first, element, parent);
        return;
    }
    const grammar_rule *rule = &s->grammar->rules[elements[element].rule];
    const int32_t back =
        elements[element + 1].kind == GRAMMAR_END ? parent : add_node(s, element + 1, parent);
    for (size_t i = 0; i < rule->count && !s->overflow; i++)
        enter(s, first, rule->starts[i], back, depth + 1);
}

mica_status mica_grammar_state_init(mica_grammar_state *s, const mica_grammar *g, mica_err *err)
{
    *s = (mica_grammar_state){.grammar = g};
    const grammar_rule *root = &g->rules[g->root];
    for (size_t i = 0; i < root->count; i++)
        enter(s, 0, root->starts[i], -1, 0);
    if (!s->overflow)
        return MICA_OK;
    return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                     "the grammar can begin in more ways than %d, or there is no memory",
                     MOST_STACKS);
}

void mica_grammar_state_deinit(mica_grammar_state *s)
{
    mica_mem_free(s->nodes);
    mica_mem_free(s->stacks);
    *s = (mica_grammar_state){0};
}

/* Stacks [first, last) moved over one byte, behind themselves. */
static void move(mica_grammar_state *s, size_t first, size_t last, uint8_t byte)
{
    for (size_t i = first; i < last && !s->overflow; i++) {
        const mica_grammar_node top = s->nodes[s->stacks[i]];
        if (top.element == WHOLE)
            continue;
        const grammar_element *e = &s->grammar->elements[top.element];
        if (byte >= e->lo && byte <= e->hi)
            enter(s, last, top.element + 1, top.parent, 0);
    }
}

/* Moves copies of the stacks over all bytes; the result is [*first, stack_count). Those in between are dropped, so
 * that a text needs no more room than its bytes one by one. */
static bool try_bytes(mica_grammar_state *s, const char *bytes, size_t size, size_t *first)
{
    const size_t own = s->stack_count;
    size_t from = 0;
    for (size_t i = 0; i < size; i++) {
        const size_t last = s->stack_count;
        move(s, from, last, (uint8_t)bytes[i]);
        if (s->overflow || s->stack_count == last)
            return false;
        if (last > own) {
            memmove(s->stacks + own, s->stacks + last, (s->stack_count - last) * sizeof *s->stacks);
            s->stack_count -= last - own;
        }
        from = own;
    }
    *first = from;
    return true;
}

bool mica_grammar_allows(mica_grammar_state *s, const char *bytes, size_t size)
{
    const size_t nodes = s->node_count, stacks = s->stack_count;
    size_t first;
    if (s->overflow || size == 0)
        return false;
    const bool fits = try_bytes(s, bytes, size, &first);
    s->node_count = nodes;
    s->stack_count = stacks;
    s->overflow = false; /* of this text alone */
    return fits;
}

/* A chain copied to the front of a fresh state. */
static int32_t copy_chain(mica_grammar_state *to, const mica_grammar_state *from, int32_t node)
{
    int32_t chain[MOST_DEPTH];
    int n = 0, at = -1;
    for (; node >= 0 && n < MOST_DEPTH; node = from->nodes[node].parent)
        chain[n++] = node;
    to->overflow |= node >= 0; /* nested deeper than can be kept */
    while (n > 0)
        at = add_node(to, from->nodes[chain[--n]].element, at);
    return at;
}

bool mica_grammar_advance(mica_grammar_state *s, const char *bytes, size_t size)
{
    const size_t nodes = s->node_count, stacks = s->stack_count;
    mica_grammar_state fresh = {.grammar = s->grammar};
    size_t first = 0;
    if (s->overflow || size == 0 || !try_bytes(s, bytes, size, &first)) {
        s->node_count = nodes;
        s->stack_count = stacks;
        return false;
    }
    for (size_t i = first; i < s->stack_count; i++) {
        const int32_t node = copy_chain(&fresh, s, s->stacks[i]);
        if (!fresh.overflow)
            add_stack(&fresh, 0, fresh.nodes[node].element, fresh.nodes[node].parent);
    }
    mica_grammar_state_deinit(s);
    *s = fresh;
    return true;
}

bool mica_grammar_is_whole(const mica_grammar_state *s)
{
    for (size_t i = 0; i < s->stack_count; i++)
        if (s->nodes[s->stacks[i]].element == WHOLE)
            return true;
    return false;
}
