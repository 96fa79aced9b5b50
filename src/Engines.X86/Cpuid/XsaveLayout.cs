namespace Bunraku.Engines.X86;

/// <summary>
/// State components of the XSAVE area, standard format. Intel SDM vol. 1, "Managing State Using the XSAVE Feature Set"; what CPUID leaf 0Dh reports.
/// </summary>
public static class XsaveLayout
{
    /// <summary>XCR0 bits.</summary>
    public const ulong X87 = 1, Sse = 2, Avx = 4, Pkru = 0x200;

    /// <summary>XCR0 bits that a processor of this model may have set.</summary>
    public static ulong Allowed(CpuModel model) => X87 | Sse | (model.Has(CpuFeature.Avx) ? Avx : 0) | (model.Has(CpuFeature.Pku) ? Pkru : 0);

    /// <summary>Bytes of the legacy area and of the header behind it.</summary>
    public const int LegacySize = 512, HeaderOffset = 512, HeaderSize = 64;
    /// <summary>YMM15..YMM0 bits 255:128.</summary>
    public const int AvxOffset = 576, AvxSize = 256, AvxComponent = 2;
    /// <summary>PKRU; the offset is that of AMD processors without AVX-512.</summary>
    public const int PkruOffset = 832, PkruSize = 8, PkruComponent = 9;

    /// <summary>Bytes of the standard-format area for the components in <paramref name="mask"/>.</summary>
    public static int StandardSize(ulong mask) =>
        (mask & Pkru) != 0 ? PkruOffset + PkruSize : (mask & Avx) != 0 ? AvxOffset + AvxSize : HeaderOffset + HeaderSize;

    /// <summary>Bytes of the compacted-format area for the components in <paramref name="mask"/>; no component is aligned.</summary>
    public static int CompactSize(ulong mask) =>
        HeaderOffset + HeaderSize + ((mask & Avx) != 0 ? AvxSize : 0) + ((mask & Pkru) != 0 ? PkruSize : 0);
}
