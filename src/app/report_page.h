/* The sections of the report page. */
#pragma once
#include "app/html.h"
#include "app/report_data.h"

void page_pictures(html *h, const report_data *d);
void page_tables(html *h, const report_data *d);
/* summary gets the last values of each curve. */
void page_curves(html *h, const report_data *d, int64_t smooth, json_t *summary);
void page_circumstances(html *h, const report_data *d, json_t *summary);
