def page(rows): return ''
