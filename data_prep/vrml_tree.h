/* The nodes of a VRML file that carry geometry (vrml_parse.c), for vrml_mesh.c. A node that is USEd is shared, so the
 * tree is an acyclic graph: a name is known only after its node has ended. */
#pragma once
#include "data_prep/vrml.h"

enum { VRML_DEPTH = 128 };

typedef enum {
    VRML_GROUP, /* Group, Anchor, Billboard, Collision, LOD (first level), Switch (chosen child) */
    VRML_TRANSFORM,
    VRML_SHAPE,
    VRML_APPEARANCE,
    VRML_MATERIAL,
    VRML_FACES,
    VRML_LINES,      /* IndexedLineSet, PointSet: only for the names in them */
    VRML_COORDINATE, /* point, or the colours of a Color */
    VRML_BOX,
    VRML_CONE,
    VRML_CYLINDER,
    VRML_SPHERE
} vrml_kind;

typedef struct {
    float  *v;
    int64_t n, room;
} vrml_floats;

typedef struct {
    int32_t *v;
    int64_t  n, room;
} vrml_ints;

typedef struct vrml_node vrml_node;

/* A node may hang in several places, so lists are of links. */
typedef struct vrml_link {
    vrml_node        *to;
    struct vrml_link *next;
} vrml_link;

struct vrml_node {
    vrml_kind   kind;
    vrml_node  *older; /* all nodes, for freeing and for finding names */
    char        name[64];
    bool        ended;
    vrml_link  *child, *last;
    /* Transform: translation, rotation (axis, radians), scale, center, scaleOrientation. Box: size in scale. Cone,
     * Cylinder, Sphere: radius and height in scale[0], scale[1]. Material: diffuse in scale, transparency. */
    float       translation[3], rotation[4], scale[3], center[3], orientation[4], transparency;
    vrml_node  *appearance, *geometry; /* Shape; Appearance: its material in appearance */
    vrml_node  *coord, *color;         /* IndexedFaceSet */
    vrml_floats point;
    vrml_ints   coord_index, color_index;
    bool        per_face; /* colours */
    bool        clockwise;
    int32_t     choice; /* Switch; -2: all children, -3: the first */
    int64_t     number; /* Material: its number in the scene, -1: none yet */
};

typedef struct {
    vrml_node *newest;
    vrml_link *root, *last;
    int64_t    n_unknown; /* geometry of kinds that are not read */
    char       unknown[64];
    char      *why; /* [160] */
} vrml_tree;

/* False: why is set. Free the tree in both cases. */
bool vrml_parse(const char *text, int64_t n, vrml_tree *t);
void vrml_tree_free(vrml_tree *t);
