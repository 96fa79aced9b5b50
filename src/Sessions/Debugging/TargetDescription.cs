using System.Globalization;
using System.Text;

namespace Bunraku.Sessions.Debugging;

/// <summary>Tells a debugger which registers there are. GDB manual, appendix "Target Descriptions".</summary>
internal static class TargetDescription
{
    private static readonly (string Name, int Bit)[] s_eflags =
    [
        ("CF", 0), ("", 1), ("PF", 2), ("AF", 4), ("ZF", 6), ("SF", 7), ("TF", 8), ("IF", 9), ("DF", 10), ("OF", 11), ("NT", 14), ("RF", 16), ("VM", 17),
        ("AC", 18), ("VIF", 19), ("VIP", 20), ("ID", 21),
    ];
    private static readonly (string Name, int Bit)[] s_mxcsr =
    [
        ("IE", 0), ("DE", 1), ("ZE", 2), ("OE", 3), ("UE", 4), ("PE", 5), ("DAZ", 6), ("IM", 7), ("DM", 8), ("ZM", 9), ("OM", 10), ("UM", 11), ("PM", 12),
        ("FZ", 15),
    ];
    private static readonly (string Name, int Bit)[] s_cr0 =
        [("PE", 0), ("MP", 1), ("EM", 2), ("TS", 3), ("ET", 4), ("NE", 5), ("WP", 16), ("AM", 18), ("NW", 29), ("CD", 30), ("PG", 31)];
    private static readonly (string Name, int Bit)[] s_cr4 =
    [
        ("VME", 0), ("PVI", 1), ("TSD", 2), ("DE", 3), ("PSE", 4), ("PAE", 5), ("MCE", 6), ("PGE", 7), ("PCE", 8), ("OSFXSR", 9), ("OSXMMEXCPT", 10),
        ("UMIP", 11), ("LA57", 12), ("VMXE", 13), ("SMXE", 14), ("FSGSBASE", 16), ("PCIDE", 17), ("OSXSAVE", 18), ("SMEP", 20), ("SMAP", 21), ("PKE", 22),
    ];
    private static readonly (string Name, int Bit)[] s_efer = [("SCE", 0), ("LME", 8), ("LMA", 10), ("NXE", 11), ("SVME", 12), ("FFXSR", 14)];

    /// <summary>The description of an architecture, an XML document.</summary>
    public static string Write(DebugRegisters registers)
    {
        var xml = new StringBuilder("<?xml version=\"1.0\"?>\n<!DOCTYPE target SYSTEM \"gdb-target.dtd\">\n<target version=\"1.0\">\n");
        xml.Append(CultureInfo.InvariantCulture, $"<architecture>{registers.Architecture.Name()}</architecture>\n");
        foreach ((string name, DebugRegister[] list) in registers.Features)
        {
            xml.Append(CultureInfo.InvariantCulture, $"<feature name=\"{name}\">\n");
            foreach (string type in list.Select(r => r.Type).Distinct()) AppendType(xml, type, list.First(r => r.Type == type).Size);
            foreach (DebugRegister r in list)
            {
                string group = r.Group is { } g ? $" group=\"{g}\"" : "";
                xml.Append(CultureInfo.InvariantCulture, $"<reg name=\"{r.Name}\" bitsize=\"{8 * r.Size}\" type=\"{r.Type}\"{group}/>\n");
            }
            xml.Append("</feature>\n");
        }
        return xml.Append("</target>\n").ToString();
    }

    /// <summary>Types that GDB does not have by itself.</summary>
    private static void AppendType(StringBuilder xml, string type, int size)
    {
        switch (type)
        {
            case "i386_eflags": AppendFlags(xml, type, size, s_eflags); break;
            case "i386_mxcsr": AppendFlags(xml, type, size, s_mxcsr); break;
            case "bunraku_cr0": AppendFlags(xml, type, size, s_cr0); break;
            case "bunraku_cr4": AppendFlags(xml, type, size, s_cr4); break;
            case "bunraku_efer": AppendFlags(xml, type, size, s_efer); break;
            case "vec128": AppendVector(xml); break;
            default: break;
        }
    }

    private static void AppendFlags(StringBuilder xml, string type, int size, (string Name, int Bit)[] flags)
    {
        xml.Append(CultureInfo.InvariantCulture, $"<flags id=\"{type}\" size=\"{size}\">\n");
        foreach ((string name, int bit) in flags)
            xml.Append(CultureInfo.InvariantCulture, $"<field name=\"{name}\" start=\"{bit}\" end=\"{bit}\"/>\n");
        xml.Append("</flags>\n");
    }

    private static void AppendVector(StringBuilder xml)
    {
        (string Id, string Type, int Count)[] views =
        [
            ("v8bf16", "bfloat16", 8), ("v4f", "ieee_single", 4), ("v2d", "ieee_double", 2), ("v16i8", "int8", 16), ("v8i16", "int16", 8),
            ("v4i32", "int32", 4), ("v2i64", "int64", 2),
        ];
        foreach ((string id, string type, int count) in views)
            xml.Append(CultureInfo.InvariantCulture, $"<vector id=\"{id}\" type=\"{type}\" count=\"{count}\"/>\n");
        (string Field, string Type)[] fields =
        [
            ("v8_bfloat16", "v8bf16"), ("v4_float", "v4f"), ("v2_double", "v2d"), ("v16_int8", "v16i8"), ("v8_int16", "v8i16"), ("v4_int32", "v4i32"),
            ("v2_int64", "v2i64"), ("uint128", "uint128"),
        ];
        xml.Append("<union id=\"vec128\">\n");
        foreach ((string field, string type) in fields) xml.Append(CultureInfo.InvariantCulture, $"<field name=\"{field}\" type=\"{type}\"/>\n");
        xml.Append("</union>\n");
    }
}
