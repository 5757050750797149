/* cpu.h - what this processor can do, and a mask to use less of it.
 *
 * Detected once; the only mutable process-wide state beside the allocation counters.
 * mica_cpu_set_level must be called before the first engine opens. */
#ifndef MICA_BASE_CPU_H
#define MICA_BASE_CPU_H

#include "base/status.h"

mica_cpu_level mica_cpu_best_level(void); /* what the machine has (never AUTO) */
mica_cpu_level mica_cpu_get_level(void);  /* what may be used: best, or lower if set */
/* AUTO restores the best. MICA_E_UNSUPPORTED when the machine lacks the level. */
mica_status mica_cpu_set_level(mica_cpu_level level, mica_err *err);
bool mica_cpu_has_vnni(void); /* AVX512_VNNI present and within the level mask (V4 or higher) */
bool mica_cpu_has_vbmi(void); /* AVX512_VBMI and GFNI beside VNNI, likewise */
bool mica_cpu_has_bf16(void); /* AVX512_BF16 present and level V4_BF16_VNNI or higher */
bool mica_cpu_has_amx(void);  /* AMX_TILE, AMX_BF16, AMX_INT8 usable and level is V4_AMX */
const char *mica_cpu_level_name(mica_cpu_level level); /* "v4", ...; also what --cpu-level takes */
bool mica_cpu_level_parse(const char *name, mica_cpu_level *out);
int mica_cpu_count(void); /* cores this process may run on */

#endif
