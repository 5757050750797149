/* english_shortened.h - what English writes shorter than it is said: months and days, Roman numerals, words made
 * of initials. Rules of english_normalize.c; the groups they read stand beside each. */
#ifndef MICA_SPEECH_ENGLISH_SHORTENED_H
#define MICA_SPEECH_ENGLISH_SHORTENED_H

#include "speech/speech_rules.h"

#define MICA_ENGLISH_MONTHS                                                                        \
    "(Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|"               \
    "Sept?(?:ember)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)"
#define MICA_ENGLISH_DAYS "(Mon|Tues?|Wed|Thu(?:rs?)?|Fri|Sat|Sun)"
/* Words in front of a number that is often Roman, and names in front of an ordinal one. */
#define MICA_ENGLISH_NUMBERED                                                                      \
    "War|Chapter|Part|Volume|Vol\\.|Book|Act|Scene|Section|Article|Phase|Stage|Type|Class|Level|"  \
    "Grade|Round|Episode|Season|Title|Mark|Bowl|Games"
#define MICA_ENGLISH_RULERS                                                                        \
    "Henry|Louis|George|Elizabeth|Charles|Edward|Richard|William|James|Philip|Napoleon|"           \
    "Catherine|Nicholas|Alexander|Paul|Pius|Leo|Benedict|Ramses|Frederick|Ivan|Peter|Mary"
/* Said as words; others letter by letter. */
#define MICA_ENGLISH_ACRONYMS                                                                      \
    "NASA|NATO|COVID|SARS|AIDS|UNESCO|UNICEF|OPEC|FIFA|NASDAQ|IKEA|LEGO|SWAT|FEMA|NAFTA|RAM|ROM|"  \
    "PIN|SIM|LAN|GIF|ASCII|LASER|ASEAN|INTERPOL|PISA|CERN"

mica_rule_fn mica_english_month;     /* 1: month */
mica_rule_fn mica_english_month_day; /* 1: month, 2: day of it in digits */
mica_rule_fn mica_english_day_month; /* 1: day of the month in digits, 2: month */
mica_rule_fn mica_english_day;       /* 1: day of the week */
mica_rule_fn mica_english_days;      /* 1, 2: days of the week, "Monday to Friday" */
mica_rule_fn mica_english_roman;     /* 1: what stands before, 2: Roman numeral */
mica_rule_fn mica_english_ruler;     /* likewise, "the eighth" */
mica_rule_fn mica_english_acronym;   /* 1: the word */

#endif
