"""Ordinary prose written for these tests: it must pass every filter. And text that must not."""

from __future__ import annotations

__all__ = ["CHINESE", "DEGENERATE", "ENGLISH", "degenerate_chinese", "degenerate_english"]

CHINESE = (
    "清晨五点，码头上已经亮起了灯。老张把最后一筐虾搬上三轮车，回头看了看海面，说今天风小，下午还能"
    "再出去一趟。儿子站在船尾收网，手冻得通红，却不肯戴手套。他说戴上手套就摸不出网线的松紧，网要是"
    "收得不匀，下一次撒出去就会打结。父子俩话不多，干活的时候更是一句也没有，只听见水从网眼里滴下来"
    "的声音。等太阳从灯塔后面升起来，早市的人陆续到了，有人问价，有人挑拣，老张才笑起来，嗓门也大了。",
    "图书馆搬到新楼以后，借书的手续简单了不少。读者在门口的机器上刷一下卡，把书放在台子上，屏幕就会列"
    "出书名和归还日期。管理员陈阿姨起初不放心，每天闭馆后都要把记录抄一遍，和机器里的数目对一对。过了"
    "两个月，一本也没有错，她才把抄本锁进了抽屉。不过她仍旧坚持一件事：孩子来还书，她一定要问一句，书"
    "里讲的是什么。有的孩子答得头头是道，有的支支吾吾，第二天又把同一本书借了回去。",
    "做红烧肉不必用太多调料。五花肉切成两指宽的方块，冷水下锅，煮开后撇去浮沫，捞出来沥干。锅里放一"
    "小勺油和一把冰糖，小火慢慢炒到糖色发红、冒起细泡，再把肉倒进去翻匀。接着加生抽、几滴老抽、两片姜"
    "和一颗八角，热水没过肉面，盖上锅盖焖四十分钟。中途不要掀盖，也不要加冷水。最后开大火收汁，汤汁变"
    "稠、肉皮发亮就可以出锅了。剩下的汤拌饭很香，第二天煮面也好。",
    "这次会议讨论了三个问题。第一，旧城区的排水管道大多是上世纪八十年代铺设的，管径偏小，每逢暴雨，低"
    "洼路段就会积水；第二，改造需要封闭道路，附近的商户担心生意受影响，希望能分段施工；第三，资金分两"
    "年拨付，今年只够完成一半。经过讨论，大家同意先修学校和医院周围的路段，雨季之前完工，其余部分安排"
    "在明年春天。施工单位要在路口张贴图纸和工期，并留出行人通道，居民有意见可以直接打电话反映。",
    "外婆不识字，却记得所有人的生日。她有一只铁皮盒子，里面装着各种颜色的扣子，每一颗都代表一个人。红"
    "的是大舅，蓝的是小姨，有裂纹的那颗是我，因为我满月那天摔碎了一只碗。每到月初，她就把扣子摊在桌上，"
    "数一数这个月要煮几碗长寿面。后来她眼睛不好了，分不清颜色，就改用手摸。她去世以后，盒子归了母亲，"
    "母亲把扣子一颗颗缝在一块白布上，旁边绣了名字，挂在客厅的墙上。",
)

ENGLISH = (
    "The ferry left at a quarter past six, eleven minutes late, because the captain would not"
    " sail without the mail and the mail would not come without the postmistress, who had a "
    "cold. By the time we cleared the breakwater the light had gone the colour of weak tea. A"
    " boy of about nine asked whether the island had wolves. His sister said it had sheep, "
    "which were worse, and told him a long story about a ram that had learned to open gates. "
    "Nobody on deck contradicted her.",
    "To change the filter, first close the valve under the sink and open the tap until the "
    "water stops. Unscrew the lower cup by hand; if it is tight, use the plastic key that "
    "came with it, never pliers. Let the old cartridge drain for a minute before you lift it "
    "out, and wipe the inside of the cup with a clean cloth. The new cartridge goes in with "
    "the arrow pointing up. Tighten the cup until the ring is no longer visible, open the "
    "valve slowly, and look for drops. The first two litres taste of carbon and should be "
    "thrown away.",
    "Sales of second-hand bicycles rose by a fifth last year, according to the traders' "
    "association, while those of new ones fell for the third year in a row. Shop owners give "
    "two reasons. Prices of new models have climbed faster than wages, and parts for older "
    "frames are easy to find again now that small workshops print them. Not everyone is "
    "pleased: a repair that takes an hour earns less than a sale that takes ten minutes, and "
    "there are not enough mechanics. The town's college has started an evening course; forty "
    "people applied for its twelve places.",
    "Dear Margaret, thank you for the seeds, which arrived dry in spite of the weather. I "
    "have put the beans along the south wall, as you said, and the poppies where nothing else"
    " will grow. Tom says that I am too old to dig and then stands at the window to see "
    "whether I do it properly. The cat has taken to sleeping in the wheelbarrow. We had the "
    "vicar to tea on Thursday, and he ate four slices and talked about drains. Write when you"
    " can, and tell me if the roof was mended.",
    "Suppose that there were only finitely many primes. Multiply them all together and add "
    "one. The number you get is larger than one, so some prime divides it. That prime cannot "
    "be on our list, since dividing by any number on the list leaves a remainder of one. So "
    "the list was not complete after all, and since we assumed nothing about it, no finite "
    "list can ever be. The argument does not say that the product plus one is itself prime, a"
    " mistake that is made more often than one would think; the first counterexample needs "
    "only the primes up to thirteen.",
)

VERBS_CHINESE = "推进 发展 前进 拓展 演进 进步 提升 变化 成长 完善 深入 扩大".split()  # noqa: SIM905
VERBS_ENGLISH = "grow rise change advance spread evolve improve deepen widen mature".split()  # noqa: SIM905


def degenerate_chinese(count: int) -> str:
    """One clause again and again; only the last verb changes."""
    clause = "随着模型的不断创新，人工智能大模型的未来也在不断{}。"
    return "".join(clause.format(VERBS_CHINESE[n % len(VERBS_CHINESE)]) for n in range(count))


def degenerate_english(count: int) -> str:
    clause = "As models keep being renewed, the future of large models will continue to {}. "
    return "".join(clause.format(VERBS_ENGLISH[n % len(VERBS_ENGLISH)]) for n in range(count))


DEGENERATE = (
    *(degenerate_chinese(count) for count in (5, 20, 100, 2000)),
    *(degenerate_english(count) for count in (5, 20, 100, 2000)),
    "好" * 500,
    "ha" * 400,
    "spam, eggs and ham\n" * 60,
    "".join(ENGLISH) * 12,  # prose, but twelve times the same
    "".join(CHINESE) * 30,
)
