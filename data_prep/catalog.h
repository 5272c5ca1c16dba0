/* Names and categories from furniture catalogues (Java properties: id#12=, name#12=, category#12=, model#12=/path,
 * Latin-1 with \uXXXX escapes) that lie beside or above a model: PluginFurnitureCatalog.properties, Catalog.properties.
 */
#pragma once
#include "core/base.h"

typedef struct catalog_set catalog_set;

/* Reads catalogues as models ask for them; nothing above `root` is looked at. */
catalog_set *catalog_new(const char *root);
void         catalog_free(catalog_set *c);

/* Of the model file `root`/`name`. Category: the catalogue's, else the name of the parent folder, else "". Title: the
 * catalogue's name, else "". Valid until catalog_free. */
void catalog_find(catalog_set *c, const char *name, const char **category, const char **title);
