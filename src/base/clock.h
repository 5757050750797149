/* clock.h - monotonic time and the process's memory figures. */
#ifndef MICA_BASE_CLOCK_H
#define MICA_BASE_CLOCK_H

#include <stdint.h>

double mica_clock_seconds(void);    /* monotonic, arbitrary origin */
uint64_t mica_clock_peak_rss(void); /* bytes; peak resident set since start (0 where unknown) */
uint64_t mica_clock_available_memory(void); /* bytes the system can give (0 where unknown) */

#endif
