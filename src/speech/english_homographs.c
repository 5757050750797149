/* english_homographs.c - words that are said in two ways, told apart by their neighbours.
 *
 *     noun or verb     a record / to record      the word before: determiners and prepositions make a noun,
 *                                                "to", pronouns and auxiliaries a verb
 *     past or present  have read / to read       have, be, a third person, a word of past time
 *     sense            live music / to live      before a noun or after "be" an adjective
 *
 * No tagger: about 100 words depend on this, and the word before decides nearly all of them.
 * Phones are CMUdict's. */
#include "speech/english.h"

#include <string.h>

typedef enum sort {
    NOUN_VERB, /* first: noun or adjective, second: verb */
    ADJ_VERB,  /* first: adjective, second: verb; "be" before makes an adjective */
    PAST,      /* first: present, second: past */
} sort;

static const struct homograph {
    const char *word;
    sort sort;
    const char *first, *second;
} homographs[] = {
    {"abuse", NOUN_VERB, "AH0 B Y UW1 S", "AH0 B Y UW1 Z"},
    {"addict", NOUN_VERB, "AE1 D IH0 K T", "AH0 D IH1 K T"},
    {"advocate", NOUN_VERB, "AE1 D V AH0 K AH0 T", "AE1 D V AH0 K EY2 T"},
    {"affect", NOUN_VERB, "AE1 F EH0 K T", "AH0 F EH1 K T"},
    {"alternate", ADJ_VERB, "AO1 L T ER0 N AH0 T", "AO1 L T ER0 N EY2 T"},
    {"appropriate", ADJ_VERB, "AH0 P R OW1 P R IY0 AH0 T", "AH0 P R OW1 P R IY0 EY2 T"},
    {"approximate", ADJ_VERB, "AH0 P R AA1 K S AH0 M AH0 T", "AH0 P R AA1 K S AH0 M EY2 T"},
    {"attribute", NOUN_VERB, "AE1 T R AH0 B Y UW2 T", "AH0 T R IH1 B Y UW2 T"},
    {"bow", NOUN_VERB, "B OW1", "B AW1"},
    {"close", ADJ_VERB, "K L OW1 S", "K L OW1 Z"},
    {"coordinate", NOUN_VERB, "K OW0 AO1 R D AH0 N AH0 T", "K OW0 AO1 R D AH0 N EY2 T"},
    {"combat", NOUN_VERB, "K AA1 M B AE0 T", "K AH0 M B AE1 T"},
    {"combine", NOUN_VERB, "K AA1 M B AY0 N", "K AH0 M B AY1 N"},
    {"compact", ADJ_VERB, "K AA1 M P AE0 K T", "K AH0 M P AE1 K T"},
    {"compound", NOUN_VERB, "K AA1 M P AW0 N D", "K AH0 M P AW1 N D"},
    {"compress", NOUN_VERB, "K AA1 M P R EH0 S", "K AH0 M P R EH1 S"},
    {"conduct", NOUN_VERB, "K AA1 N D AH0 K T", "K AH0 N D AH1 K T"},
    {"confines", NOUN_VERB, "K AA1 N F AY2 N Z", "K AH0 N F AY1 N Z"},
    {"conflict", NOUN_VERB, "K AA1 N F L IH0 K T", "K AH0 N F L IH1 K T"},
    {"conflicts", NOUN_VERB, "K AA1 N F L IH0 K T S", "K AH0 N F L IH1 K T S"},
    {"console", NOUN_VERB, "K AA1 N S OW0 L", "K AH0 N S OW1 L"},
    {"construct", NOUN_VERB, "K AA1 N S T R AH0 K T", "K AH0 N S T R AH1 K T"},
    {"content", NOUN_VERB, "K AA1 N T EH0 N T", "K AH0 N T EH1 N T"},
    {"contest", NOUN_VERB, "K AA1 N T EH0 S T", "K AH0 N T EH1 S T"},
    {"contract", NOUN_VERB, "K AA1 N T R AE2 K T", "K AH0 N T R AE1 K T"},
    {"contracts", NOUN_VERB, "K AA1 N T R AE2 K T S", "K AH0 N T R AE1 K T S"},
    {"contrast", NOUN_VERB, "K AA1 N T R AE2 S T", "K AH0 N T R AE1 S T"},
    {"converse", NOUN_VERB, "K AA1 N V ER0 S", "K AH0 N V ER1 S"},
    {"convert", NOUN_VERB, "K AA1 N V ER0 T", "K AH0 N V ER1 T"},
    {"convict", NOUN_VERB, "K AA1 N V IH0 K T", "K AH0 N V IH1 K T"},
    {"decrease", NOUN_VERB, "D IY1 K R IY2 S", "D IH0 K R IY1 S"},
    {"defect", NOUN_VERB, "D IY1 F EH0 K T", "D IH0 F EH1 K T"},
    {"delegate", NOUN_VERB, "D EH1 L AH0 G AH0 T", "D EH1 L AH0 G EY2 T"},
    {"deliberate", ADJ_VERB, "D IH0 L IH1 B ER0 AH0 T", "D IH0 L IH1 B ER0 EY2 T"},
    {"desert", NOUN_VERB, "D EH1 Z ER0 T", "D IH0 Z ER1 T"},
    {"digest", NOUN_VERB, "D AY1 JH EH0 S T", "D AY0 JH EH1 S T"},
    {"discount", NOUN_VERB, "D IH1 S K AW0 N T", "D IH0 S K AW1 N T"},
    {"discourse", NOUN_VERB, "D IH1 S K AO0 R S", "D IH0 S K AO1 R S"},
    {"duplicate", NOUN_VERB, "D UW1 P L AH0 K AH0 T", "D UW1 P L AH0 K EY2 T"},
    {"elaborate", ADJ_VERB, "IH0 L AE1 B R AH0 T", "IH0 L AE1 B ER0 EY2 T"},
    {"escort", NOUN_VERB, "EH1 S K AO0 R T", "EH0 S K AO1 R T"},
    {"estimate", NOUN_VERB, "EH1 S T AH0 M AH0 T", "EH1 S T AH0 M EY2 T"},
    {"estimates", NOUN_VERB, "EH1 S T AH0 M AH0 T S", "EH1 S T AH0 M EY2 T S"},
    {"excuse", NOUN_VERB, "IH0 K S K Y UW1 S", "IH0 K S K Y UW1 Z"},
    {"exploit", NOUN_VERB, "EH1 K S P L OY2 T", "EH2 K S P L OY1 T"},
    {"export", NOUN_VERB, "EH1 K S P AO0 R T", "IH0 K S P AO1 R T"},
    {"exports", NOUN_VERB, "EH1 K S P AO0 R T S", "IH0 K S P AO1 R T S"},
    {"extract", NOUN_VERB, "EH1 K S T R AE2 K T", "IH0 K S T R AE1 K T"},
    {"graduate", NOUN_VERB, "G R AE1 JH AH0 W AH0 T", "G R AE1 JH AH0 W EY2 T"},
    {"house", NOUN_VERB, "HH AW1 S", "HH AW1 Z"},
    {"impact", NOUN_VERB, "IH1 M P AE0 K T", "IH2 M P AE1 K T"},
    {"import", NOUN_VERB, "IH1 M P AO2 R T", "IH2 M P AO1 R T"},
    {"imports", NOUN_VERB, "IH1 M P AO2 R T S", "IH2 M P AO1 R T S"},
    {"increase", NOUN_VERB, "IH1 N K R IY2 S", "IH0 N K R IY1 S"},
    {"increases", NOUN_VERB, "IH1 N K R IY2 S IH0 Z", "IH0 N K R IY1 S IH0 Z"},
    {"initiate", NOUN_VERB, "IH0 N IH1 SH IY0 AH0 T", "IH0 N IH1 SH IY0 EY2 T"},
    {"insert", NOUN_VERB, "IH1 N S ER0 T", "IH0 N S ER1 T"},
    {"insult", NOUN_VERB, "IH1 N S AH2 L T", "IH0 N S AH1 L T"},
    {"intimate", ADJ_VERB, "IH1 N T AH0 M AH0 T", "IH1 N T AH0 M EY2 T"},
    {"invite", NOUN_VERB, "IH1 N V AY0 T", "IH0 N V AY1 T"},
    {"lead", NOUN_VERB, "L IY1 D", "L IY1 D"}, /* the dictionary has the metal */
    {"live", ADJ_VERB, "L AY1 V", "L IH1 V"},
    {"lives", NOUN_VERB, "L AY1 V Z", "L IH1 V Z"},
    {"minute", NOUN_VERB, "M IH1 N AH0 T", "M IH1 N AH0 T"},
    {"misuse", NOUN_VERB, "M IH0 S Y UW1 S", "M IH0 S Y UW1 Z"},
    {"moderate", ADJ_VERB, "M AA1 D ER0 AH0 T", "M AA1 D ER0 EY2 T"},
    {"object", NOUN_VERB, "AA1 B JH EH0 K T", "AH0 B JH EH1 K T"},
    {"objects", NOUN_VERB, "AA1 B JH EH0 K T S", "AH0 B JH EH1 K T S"},
    {"perfect", ADJ_VERB, "P ER1 F IH2 K T", "P ER0 F EH1 K T"},
    {"permit", NOUN_VERB, "P ER1 M IH2 T", "P ER0 M IH1 T"},
    {"present", NOUN_VERB, "P R EH1 Z AH0 N T", "P R IY0 Z EH1 N T"},
    {"presents", NOUN_VERB, "P R EH1 Z AH0 N T S", "P R IY0 Z EH1 N T S"},
    {"produce", NOUN_VERB, "P R OW1 D UW0 S", "P R AH0 D UW1 S"},
    {"progress", NOUN_VERB, "P R AA1 G R EH2 S", "P R AH0 G R EH1 S"},
    {"project", NOUN_VERB, "P R AA1 JH EH0 K T", "P R AH0 JH EH1 K T"},
    {"projects", NOUN_VERB, "P R AA1 JH EH0 K T S", "P R AH0 JH EH1 K T S"},
    {"protest", NOUN_VERB, "P R OW1 T EH2 S T", "P R AH0 T EH1 S T"},
    {"read", PAST, "R IY1 D", "R EH1 D"},
    {"rebel", NOUN_VERB, "R EH1 B AH0 L", "R IH0 B EH1 L"},
    {"record", NOUN_VERB, "R EH1 K ER0 D", "R IH0 K AO1 R D"},
    {"records", NOUN_VERB, "R EH1 K ER0 D Z", "R IH0 K AO1 R D Z"},
    {"recess", NOUN_VERB, "R IY1 S EH2 S", "R IH0 S EH1 S"},
    {"refuse", NOUN_VERB, "R EH1 F Y UW2 Z", "R AH0 F Y UW1 Z"},
    {"reject", NOUN_VERB, "R IY1 JH EH0 K T", "R IH0 JH EH1 K T"},
    {"research", NOUN_VERB, "R IY1 S ER0 CH", "R IH0 S ER1 CH"},
    {"reset", NOUN_VERB, "R IY1 S EH2 T", "R IY0 S EH1 T"},
    {"separate", ADJ_VERB, "S EH1 P ER0 IH0 T", "S EH1 P ER0 EY2 T"},
    {"subject", NOUN_VERB, "S AH1 B JH IH0 K T", "S AH0 B JH EH1 K T"},
    {"suspect", NOUN_VERB, "S AH1 S P EH2 K T", "S AH0 S P EH1 K T"},
    {"tear", NOUN_VERB, "T IH1 R", "T EH1 R"},
    {"tears", NOUN_VERB, "T IH1 R Z", "T EH1 R Z"},
    {"torment", NOUN_VERB, "T AO1 R M EH2 N T", "T AO0 R M EH1 N T"},
    {"transfer", NOUN_VERB, "T R AE1 N S F ER0", "T R AE0 N S F ER1"},
    {"transform", NOUN_VERB, "T R AE1 N S F AO0 R M", "T R AE0 N S F AO1 R M"},
    {"transport", NOUN_VERB, "T R AE1 N S P AO0 R T", "T R AE0 N S P AO1 R T"},
    {"upset", NOUN_VERB, "AH1 P S EH2 T", "AH0 P S EH1 T"},
    {"use", NOUN_VERB, "Y UW1 S", "Y UW1 Z"},
    {"uses", NOUN_VERB, "Y UW1 S IH0 Z", "Y UW1 Z IH0 Z"},
    {"wind", NOUN_VERB, "W IH1 N D", "W AY1 N D"},
    {"wound", NOUN_VERB, "W UW1 N D", "W AW1 N D"},
};

/* " a b c " holds " word ". */
static bool one_of(const char *word, const char *list)
{
    const size_t n = strlen(word);
    if (n == 0)
        return false;
    for (const char *at = list; (at = strstr(at, word)) != NULL; at++)
        if (at[-1] == ' ' && at[n] == ' ')
            return true;
    return false;
}

static const char *word_at(const mica_english_context *c, ptrdiff_t step)
{
    const ptrdiff_t at = (ptrdiff_t)c->at + step;
    return at >= 0 && at < (ptrdiff_t)c->count ? c->words[at] : "";
}

static bool verb_before(const char *w)
{
    return one_of(
        w, " to will would can could may might must shall should do does did don't doesn't "
           "didn't won't can't cannot couldn't wouldn't shouldn't let's please i you we they who "
           "not never always often also usually i'll you'll we'll they'll he'll she'll it'll "
           "i'd you'd we'd they'd and-then help helps ");
}

static bool noun_before(const char *w)
{
    return one_of(
        w, " a an the this that these those my your his her its our their no some any each every "
           "of in on for with by from at into about under over between another one two three "
           "first second last next new old good bad big small great own most more such what "
           "which whose world public free high low strong red blue ");
}

static bool be_before(const char *w)
{
    return one_of(
        w, " is are was were be been being am i'm you're we're they're he's she's it's isn't "
           "aren't wasn't weren't become became seem seems too so very quite more most really "
           "stay stays getting get got came come pretty how as a an the his her their our its "
           "my your this that no in ");
}

static bool past_before(const mica_english_context *c)
{
    static const char *const past =
        " have has had having i've you've we've they've was were is are been be "
        "being he she it he's she's it's who's that's he'd she'd i'd well widely ";
    if (one_of(word_at(c, -1), past))
        return true;
    if (one_of(word_at(c, -1), " already just never ever not also ") &&
        one_of(word_at(c, -2), past))
        return true;
    for (size_t i = 0; i < c->count; i++)
        if (one_of(c->words[i], " yesterday ago last ") && !verb_before(word_at(c, -1)))
            return true;
    for (size_t i = 0; i < c->count; i++)
        if (one_of(c->words[i], " yesterday ago ") && one_of(word_at(c, -1), " i you we they "))
            return true;
    return false;
}

static bool adjective(const mica_english_context *c, const char *word)
{
    const char *before = word_at(c, -1), *behind = word_at(c, 1);
    if (strcmp(word, "close") == 0 && strcmp(behind, "to") == 0 && strcmp(before, "to") != 0)
        return true;
    if (strcmp(word, "live") == 0 &&
        one_of(behind,
               " music concert concerts show shows stream streams broadcast television tv audience "
               "performance performances video coverage wire "))
        return true;
    if (strcmp(word, "live") == 0 &&
        one_of(before, " go goes going broadcast streamed perform performed "))
        return true;
    return be_before(before) && !verb_before(before);
}

/* "she uses", "it lives on": the third person of verbs. */
static bool is_third_person(const mica_english_context *c, const char *word)
{
    const char *before = word_at(c, -1);
    return word[strlen(word) - 1] == 's' &&
           one_of(before, " he she it who everyone everybody someone somebody nobody ");
}

/* "my friend lives in", "was wound around": told by what is behind, or by the auxiliary before. */
static bool is_special_verb(const mica_english_context *c, const char *word)
{
    const char *before = word_at(c, -1), *behind = word_at(c, 1);
    if (strcmp(word, "lives") == 0)
        return !noun_before(before) &&
               one_of(behind, " in at with here there near alone next nearby together abroad on "
                              "across under by up down off happily ");
    return strcmp(word, "wound") == 0 &&
           one_of(before, " was is are were been be got has have had he she ");
}

const char *mica_english_homograph(const mica_english_context *c)
{
    const char *word = word_at(c, 0), *before = word_at(c, -1);
    const struct homograph *h = NULL;
    for (size_t i = 0; i < MICA_ARRAY_LEN(homographs) && h == NULL; i++)
        if (strcmp(homographs[i].word, word) == 0)
            h = &homographs[i];
    if (h == NULL)
        return NULL;
    if (h->sort == PAST)
        return past_before(c) ? h->second : h->first;
    if (h->sort == ADJ_VERB)
        return adjective(c, word) ? h->first
               : verb_before(before) || before[0] == '\0' || strcmp(word, "close") == 0 ||
                       strcmp(word, "live") == 0
                   ? h->second
                   : h->first;
    if ((verb_before(before) && !noun_before(before)) || is_third_person(c, word) ||
        is_special_verb(c, word))
        return h->second;
    /* At the start of a clause, before a noun phrase: a request ("Record this."). */
    if (before[0] == '\0' && noun_before(word_at(c, 1)) &&
        !one_of(word_at(c, 1), " of in on for with by from at "))
        return h->second;
    return h->first;
}
