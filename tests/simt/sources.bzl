"""C++ files of the CUDA kernels: each includes one .cu, or is an instance."""

def _simt_sources_impl(ctx):
    texts = {src.basename: '#include "%s"\n' % src.short_path for src in ctx.files.srcs}
    texts.update(ctx.attr.instances)
    made = []
    for name, text in texts.items():
        made.append(ctx.actions.declare_file("%s/%s.cc" % (ctx.label.name, name)))
        ctx.actions.write(made[-1], text)
    return [DefaultInfo(files = depset(made))]

simt_sources = rule(
    implementation = _simt_sources_impl,
    attrs = {
        "srcs": attr.label_list(allow_files = [".cu"]),
        "instances": attr.string_dict(),
    },
)
