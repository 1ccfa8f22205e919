import { defineConfig } from 'vite'

// Everything goes into ../dist, which the Go package embeds. Names carry a hash of the content, so that a browser may keep a file for
// ever, and paths are relative, so that the page works behind a proxy that serves it below a prefix.
export default defineConfig({
  base: './',
  build: {
    outDir: '../dist',
    emptyOutDir: true,
    target: 'es2022',
    cssTarget: ['chrome123', 'firefox121', 'safari17.5'], // they know light-dark()
    modulePreload: { polyfill: false },
    assetsInlineLimit: 0, // the content security policy knows no data: scripts and styles
    reportCompressedSize: false,
  },
  server: {
    // `npm run dev` beside a `make run`.
    proxy: Object.fromEntries(['/api', '/-', '/prometheus', '/metrics', '/ready'].map((path) => [path, 'http://127.0.0.1:9009'])),
  },
})
